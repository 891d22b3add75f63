"""Starts the gateway: `python -m segue.gateway --router HOST:PORT [--config FILE] [--port P]`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn
import uvloop

from segue.api.errors import InvalidConfig
from segue.config import read_file, section
from segue.gateway.app import make_app
from segue.gateway.config import GatewayConfig
from segue.gateway.http.protocol import Protocol
from segue.gateway.http.routes import Gateway
from segue.gateway.life import Life
from segue.gateway.metrics import GatewayMetrics
from segue.gateway.served import ServedModel
from segue.gateway.stored import StoredResponses
from segue.gateway.turns import Turns
from segue.process.heap import settle_heap
from segue.process.telemetry import setup_logging
from segue.sdk.client import DEFAULT_TARGET, Client
from segue.security.config import OPEN, Security, SecurityConfig
from segue.security.https import https_context

logger = logging.getLogger(__name__)

_BACKLOG = 2048
# Longer than most clients keep an idle connection: whoever closes first does not lose a request.
_KEEP_ALIVE_S = 75


@dataclass(frozen=True, slots=True)
class RunningGateway:
    address: str
    port: int
    metrics: GatewayMetrics
    life: Life

    async def drain_asked(self) -> None:
        """Returns when an operator has asked for a drain: leave the block then."""
        await self.life.drain_asked.wait()


@contextlib.asynccontextmanager
async def running(
    config: GatewayConfig, router: str, security: Security = OPEN
) -> AsyncIterator[RunningGateway]:
    """Runs a gateway of the router at that address, or of several at these, until the block ends,
    then drains it. Raises InvalidConfig, for example if the port is taken.
    """
    async with (
        Client(router, tls=security.tls) as client,
        running_before(client, config, security) as gateway,
    ):
        yield gateway


@contextlib.asynccontextmanager
async def running_alone(
    config: GatewayConfig, router: str, security: Security = OPEN
) -> AsyncIterator[RunningGateway]:
    """As `running`, in a process that does nothing else."""
    async with running(config, router, security) as gateway:
        settle_heap()
        yield gateway


@contextlib.asynccontextmanager
async def running_before(
    client: Client, config: GatewayConfig, security: Security = OPEN
) -> AsyncIterator[RunningGateway]:
    """As `running`, of the client's router."""
    metrics = GatewayMetrics()
    asks = ssl.CERT_REQUIRED if security.http_client_certificates else ssl.CERT_NONE
    tls = https_context(security, asks)
    with contextlib.closing(_listening(config)) as listener:
        gateway = Gateway(
            config=config,
            client=client,
            served=ServedModel(client),
            turns=Turns(client, metrics),
            stored=StoredResponses(client),
            metrics=metrics,
        )
        port: int = listener.getsockname()[1]
        address = f"{config.host}:{port}"
        async with _serving(gateway, listener, tls):
            logger.info("serving", extra={"address": address, "router": client.target})
            yield RunningGateway(address, port, metrics, gateway.life)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves signals to the process, which may be more than a gateway."""
        yield


@contextlib.asynccontextmanager
async def _serving(
    gateway: Gateway, listener: socket.socket, tls: ssl.SSLContext | None
) -> AsyncIterator[None]:
    # Its lines about starts and stops repeat ours.
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
        timeout_graceful_shutdown=max(1, round(gateway.config.drain_s)),
    )
    config.load()
    # Its own options would read the files once; this context reads them again when they change.
    config.ssl = tls
    server = _Server(config)
    task = asyncio.create_task(server.serve([listener]))
    try:
        while not (server.started or task.done()):
            await asyncio.sleep(0.001)
        yield
    finally:
        server.should_exit = True
        await task


def _listening(config: GatewayConfig) -> socket.socket:
    """Raises InvalidConfig."""
    config = config.with_port()
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # Without the protocol, asyncio would leave Nagle's algorithm on: 40 ms for each answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
        listener.listen(_BACKLOG)
        return listener
    except OSError as error:
        listener.close()
        raise InvalidConfig(
            f"cannot serve HTTP on {config.host}:{config.port} ({error.strerror}); stop the "
            "process that uses it, or choose another port with --http-port (0 lets the system "
            "choose)"
        ) from None


async def _serve(config: GatewayConfig, router: str, security: Security) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_alone(config, router, security) as gateway:
        ends = [asyncio.ensure_future(end) for end in (stop.wait(), gateway.drain_asked())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m segue.gateway", description=__doc__)
    parser.add_argument(
        "--router", default=DEFAULT_TARGET, help="its address, as host:port; of several, a list"
    )
    parser.add_argument("--config", type=Path, help="TOML file")
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", "--http-port", type=int)
    options = parser.parse_args(arguments)
    setup_logging("gateway")
    sections = read_file(options.config)
    config = section(sections, "gateway", GatewayConfig)
    # The gateway calls the router as a client: it needs no secret.
    security = section(sections, "security", SecurityConfig).security({})
    given = {k: v for k in ("host", "port") if (v := getattr(options, k)) is not None}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(replace(config, **given), options.router, security))


if __name__ == "__main__":
    main()
