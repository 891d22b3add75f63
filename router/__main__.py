"""Starts the router: `python -m router --model MODEL [--config FILE] [--port P]`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from router.config import RouterConfig
from router.documents import DocumentsFace, DocumentStore
from router.membership.service import MembershipService
from router.metrics import RouterMetrics
from router.router import Router
from router.server import Sessions
from router.sessions.prompt import PromptBuilder
from router.status import targets_of
from router.tenants.keys import Keyring
from segue.api.api_key import ENVIRONMENT
from segue.api.cluster.drain import DrainReport, HeldSession, LeftReason, MoveReport
from segue.config import read_file, section
from segue.internal.v1.worker_pb2_grpc import add_MembershipServicer_to_server
from segue.model.checkpoint.source import AS_PUBLISHED, CheckpointConfig, resolve_model
from segue.process.metrics_endpoint import MetricsEndpoint
from segue.process.telemetry import setup_logging
from segue.process.tracing.setup import tracer_of
from segue.security.config import OPEN, Security
from segue.security.options import add_secret_option, security_of
from segue.v1.documents_pb2_grpc import add_DocumentsServicer_to_server
from segue.v1.session_pb2_grpc import add_SessionsServicer_to_server
from segue.wire.addresses import Hosts
from segue.wire.server import RunningServer, Services, metrics_endpoint, serving
from segue.worker.drain import Deadline, MoveSessions, WorkerDrain

logger = logging.getLogger(__name__)

# Seconds between two updates of health and gauges from the membership.
_WATCH_S = 0.25
# Seconds between two checks of the file of API keys.
_WATCH_KEYS_S = 1.0
# Most bytes of a request apart from its texts.
_FRAMING_BYTES = 1 << 20
# Longest time that a thread which reads or tokenises a request may hold the GIL.
_SWITCH_INTERVAL_S = 0.001


@dataclass(frozen=True, slots=True)
class RunningRouter:
    router: Router
    address: str
    metrics_address: str
    draining: WorkerDrain
    """When the drain has ended, the process should exit."""


async def _leave_all(sessions: Sequence[HeldSession], timeout_s: float) -> MoveReport:
    """A router holds no sessions, only copies of histories, which clients send again."""
    return MoveReport.all_left([held.session_id for held in sessions], LeftReason.STOPPING)


@contextlib.asynccontextmanager
async def running(
    config: RouterConfig,
    model: str,
    *,
    model_name: str = "",
    checkpoint: CheckpointConfig = AS_PUBLISHED,
    security: Security = OPEN,
) -> AsyncIterator[RunningRouter]:
    """Runs a router until the block ends, then drains it.

    `model_name` is the model's public name, for when `model` is just the folder it was found in.

    Raises InvalidCheckpoint, and InvalidConfig, for example if the port is taken.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    folder = await asyncio.to_thread(resolve_model, model, with_weights=False)
    keys = await asyncio.to_thread(Keyring, config)
    metrics = RouterMetrics(model_name or model, vllm_names=config.vllm_metrics)
    prompts = PromptBuilder.from_folder(folder, checkpoint, config.parsers)
    tracer = tracer_of("router", "router")
    router = Router(
        config,
        prompts,
        metrics,
        model_name=model_name or model,
        security=security,
        tracer=tracer,
    )
    hosts = Hosts.of(config.host, config.announce)
    documents = DocumentStore(config.document_bytes, config.document_s)
    endpoint = metrics_endpoint(metrics.registry, hosts, config.metrics_port, security)

    servers: list[RunningServer] = []

    async def stop_serving() -> None:
        await servers[0].set_serving(False)

    async def drain(until: Deadline, move: MoveSessions | None) -> DrainReport:
        """At the deadline, running turns are cut: their clients continue them on another router."""
        return await router.drain(until.left_s)

    draining = WorkerDrain(
        drain,
        _leave_all,
        default_s=config.drain_s,
        started=stop_serving,
        clock=time.monotonic,
    )

    def services_at(address: str) -> Services:
        sessions = Sessions(
            router, keys, draining, address=address, metrics_address=endpoint.address
        )
        membership = MembershipService(router)
        kept = DocumentsFace(documents, keys)
        return [
            ("segue.v1.Sessions", lambda server: add_SessionsServicer_to_server(sessions, server)),
            ("segue.v1.Documents", lambda server: add_DocumentsServicer_to_server(kept, server)),
            (
                "segue.internal.v1.Membership",
                lambda server: add_MembershipServicer_to_server(membership, server),
            ),
        ]

    try:
        async with serving(
            hosts.listen,
            config.port,
            services_at,
            announce=hosts.announce,
            max_receive_bytes=config.max_prompt_bytes + _FRAMING_BYTES,
            security=security,
            serves_clients=True,
            on_serving=endpoint.set_ready,
        ) as server:
            servers.append(server)
            watches = [
                asyncio.ensure_future(
                    _watch(router, server, endpoint, has_tls=security.tls is not None)
                ),
                asyncio.ensure_future(_watch_keys(keys)),
            ]
            logger.info("serving", extra={"address": server.address, "metrics": endpoint.address})
            try:
                yield RunningRouter(router, server.address, endpoint.address, draining)
            finally:
                for watch in watches:
                    watch.cancel()
                await server.set_serving(False)
                await router.drain()
        await router.close()
    finally:
        endpoint.close()
        tracer.close()


async def _watch(
    router: Router, server: RunningServer, endpoint: MetricsEndpoint, *, has_tls: bool
) -> None:
    """Detects silent workers, publishes `/targets`, and reports SERVING exactly while turns can be
    placed."""
    while True:
        try:
            router.watch()
            targets = targets_of(endpoint.address, router.membership.workers(), has_tls=has_tls)
            endpoint.publish("/targets", targets, "application/json")
            await server.set_serving(router.is_ready())
        except Exception:
            # Silent workers must be detected as long as the router serves.
            logger.exception("unexpected error while watching the cluster")
        await asyncio.sleep(_WATCH_S)


async def _watch_keys(keys: Keyring) -> None:
    while True:
        await asyncio.sleep(_WATCH_KEYS_S)
        # The file may be on a slow file system.
        await asyncio.to_thread(keys.reread)


async def _serve(
    config: RouterConfig, model: str, checkpoint: CheckpointConfig, security: Security
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(config, model, checkpoint=checkpoint, security=security) as router:
        ends = [asyncio.ensure_future(end.wait()) for end in (stop, router.draining.ended)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m router", description=__doc__)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--config", type=Path, help="TOML file")
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--announce", help="address that others use, if different")
    parser.add_argument("--port", type=int)
    parser.add_argument("--api-key", action="append", default=[], help="see segue serve --help")
    parser.add_argument("--api-keys", dest="api_keys_file", help="TOML file of tenants' keys")
    add_secret_option(parser)
    options = parser.parse_args(arguments)
    setup_logging("router")
    sections = read_file(options.config)
    config = section(sections, "router", RouterConfig)
    checkpoint = section(sections, "checkpoint", CheckpointConfig)
    names = ("host", "announce", "port", "api_keys_file")
    given = {k: v for k in names if (v := getattr(options, k)) is not None}
    config = config.with_keys([*options.api_key, os.environ.get(ENVIRONMENT, "")])
    security = security_of(sections, options)
    asyncio.run(_serve(replace(config, **given), options.model, checkpoint, security))


if __name__ == "__main__":
    main()
