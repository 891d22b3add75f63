"""Starts the gateway: `python -m segue.gateway --router HOST:PORT [--config FILE] [--port P]`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn
import uvloop

from segue.config import read_file, section
from segue.gateway.app import make_app
from segue.gateway.config import GatewayConfig
from segue.gateway.http.protocol import Protocol
from segue.gateway.http.routes import Gateway
from segue.gateway.metrics import GatewayMetrics
from segue.gateway.served import ServedModelCache
from segue.gateway.serving.http_server import HttpServer, listening
from segue.gateway.serving.supervisor import Several, running_several
from segue.gateway.stored import StoredResponses
from segue.gateway.turns import Turns
from segue.process.heap import settle_heap
from segue.process.telemetry import setup_logging
from segue.process.tracing.setup import tracer_of
from segue.sdk.client import DEFAULT_TARGET, Client
from segue.security.config import OPEN, Security, SecurityConfig
from segue.security.https import https_context

logger = logging.getLogger(__name__)

# Longer than most clients keep an idle connection: a server that closes first may lose a request.
_KEEP_ALIVE_S = 75


@dataclass(frozen=True, slots=True)
class RunningGateway:
    address: str
    port: int
    metrics: GatewayMetrics
    _drain_asked: asyncio.Event

    async def drain_asked(self) -> None:
        """Returns when an operator has asked for a drain: leave the block then."""
        await self._drain_asked.wait()


@contextlib.asynccontextmanager
async def running(
    config: GatewayConfig,
    router: str,
    security: Security = OPEN,
    *,
    listener: socket.socket | None = None,
) -> AsyncIterator[RunningGateway]:
    """Runs a gateway for the router at this address (or several, in a list) until the block ends,
    then drains it. Raises InvalidConfig, for example if the port is taken. `listener` replaces its
    own socket.
    """
    async with (
        Client(router, tls=security.tls) as client,
        running_before(client, config, security, listener=listener) as gateway,
    ):
        yield gateway


@contextlib.asynccontextmanager
async def running_alone(
    config: GatewayConfig, router: str, security: Security = OPEN, *, log: Path | None = None
) -> AsyncIterator[RunningGateway | Several]:
    """As `running`, for a process that does nothing else. Starts child processes if the
    configuration asks for several; they log to `log`, or to stderr."""
    if config.processes > 1:
        async with running_several(config, router, security, log=log) as several:
            yield several
        return
    async with running(config, router, security) as gateway:
        settle_heap()
        yield gateway


@contextlib.asynccontextmanager
async def running_before(
    client: Client,
    config: GatewayConfig,
    security: Security = OPEN,
    *,
    listener: socket.socket | None = None,
) -> AsyncIterator[RunningGateway]:
    """As `running`, with an existing client."""
    metrics = GatewayMetrics()
    asks = ssl.CERT_REQUIRED if security.http_client_certificates else ssl.CERT_NONE
    tls = https_context(security, asks)
    tracer = tracer_of("gateway", f"gateway-{os.getpid()}")
    with contextlib.closing(tracer), contextlib.closing(listener or listening(config)) as socket_:
        gateway = Gateway(
            config=config,
            client=client,
            served=ServedModelCache(client),
            turns=Turns(client, metrics),
            stored=StoredResponses(client),
            metrics=metrics,
            tracer=tracer,
        )
        port: int = socket_.getsockname()[1]
        address = f"{config.host}:{port}"
        server = _server(gateway, tls)
        task = asyncio.create_task(server.serve([socket_]))
        try:
            while not (server.started or task.done()):
                await asyncio.sleep(0.001)
            logger.info("serving", extra={"address": address, "router": client.target})
            yield RunningGateway(address, port, metrics, gateway.drain_asked)
        finally:
            gateway.feed.close()
            await server.drain(task, config.drain_s)


def _server(gateway: Gateway, tls: ssl.SSLContext | None) -> HttpServer:
    # Its lines about start and shutdown repeat ours.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        make_app(gateway),
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        # Nothing here reads the client's address.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    config.load()
    # uvicorn's own options would read the files only once; this context reloads them.
    config.ssl = tls
    return HttpServer(config)


async def _serve(config: GatewayConfig, router: str, security: Security) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_alone(config, router, security) as gateway:
        if isinstance(gateway, Several):
            about = {"address": gateway.address, "router": router, "processes": config.processes}
            logger.info("serving", extra=about)
        ends = [asyncio.ensure_future(end) for end in (stop.wait(), gateway.drain_asked())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m segue.gateway", description=__doc__)
    parser.add_argument(
        "--router",
        default=DEFAULT_TARGET,
        help="router address, host:port; a comma-separated list for several",
    )
    parser.add_argument("--config", type=Path, help="TOML file")
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", "--http-port", type=int)
    parser.add_argument(
        "--processes", type=int, help="processes that listen on the port; 1 by default"
    )
    options = parser.parse_args(arguments)
    setup_logging("gateway")
    sections = read_file(options.config)
    config = section(sections, "gateway", GatewayConfig)
    # The gateway calls the router as a client: it needs no secret.
    security = section(sections, "security", SecurityConfig).security({})
    given = {k: v for k in ("host", "port", "processes") if (v := getattr(options, k)) is not None}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(replace(config, **given), options.router, security))


if __name__ == "__main__":
    main()
