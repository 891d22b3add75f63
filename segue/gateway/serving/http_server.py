"""The gateway's socket, and the HTTP server that listens on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Generator
from time import monotonic

import uvicorn

from segue.api.errors import InvalidConfig
from segue.gateway.config import GatewayConfig

logger = logging.getLogger(__name__)

_TICK_S = 1.0
_LOOK_S = 0.01
_STOPPED_S = 0.2
_LAST_WORDS_S = 1.0
_BACKLOG = 2048
# Of an answer, in the kernel's buffer.
_UNSENT_BYTES = 64 << 10


class HttpServer(uvicorn.Server):
    """uvicorn looks ten times a second whether it should end, and whether it has: it would take
    0.2 s to end even without a connection."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._is_asked = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves signals to the process, which may run more than a gateway."""
        yield

    async def drain(self, serving: asyncio.Task[None], within_s: float) -> None:
        """Accepts no more connections, and waits for `serve` to return. Requests that do not end in
        time are cancelled, and connections that are still open a second later are aborted."""
        self.should_exit = True
        self._is_asked.set()
        if not await _ends(serving, within_s):
            if tasks := list(self.server_state.tasks):
                logger.warning("requests did not end in time", extra={"cancelled": len(tasks)})
            for task in tasks:
                task.cancel()
            if not await _ends(serving, _LAST_WORDS_S):
                for connection in list(self.server_state.connections):
                    connection.transport.abort()
        await serving

    async def main_loop(self) -> None:
        # With 0, it updates the time in the headers.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_asked.wait(), _TICK_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        # At least once: a connection that was just accepted is not among them yet.
        await asyncio.sleep(_LOOK_S)
        while self.server_state.connections or self.server_state.tasks:
            await asyncio.sleep(_LOOK_S)
        for server in self.servers:
            await server.wait_closed()


async def _ends(task: asyncio.Task[None], within_s: float) -> bool:
    """Whether it ends in time. Time in which this process was stopped does not count: it still has
    to handle what arrived meanwhile (the rest of all answers)."""
    left_s = within_s
    while left_s > 0 and not task.done():
        started_at = monotonic()
        await asyncio.wait([task], timeout=min(_STOPPED_S / 2, left_s))
        left_s -= min(monotonic() - started_at, _STOPPED_S)
    return task.done()


def listening(config: GatewayConfig, *, is_shared: bool = False) -> socket.socket:
    """`is_shared`: other processes of the same user may listen on the port too, and the kernel
    spreads connections over them. Raises InvalidConfig.
    """
    listener = _bound(config.with_port(), is_shared=is_shared)
    listener.listen(_BACKLOG)
    return listener


def reserved(config: GatewayConfig) -> socket.socket:
    """Reserves the port for processes that share it, without listening. Raises InvalidConfig."""
    config = config.with_port()
    # A shared bind would succeed even beside the gateway of another cluster.
    with contextlib.closing(_bound(config, is_shared=False)) as probe:
        probe.listen(1)
    return _bound(config, is_shared=True)


def _bound(config: GatewayConfig, *, is_shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # Without an explicit protocol, asyncio leaves Nagle's algorithm on: 40 ms for each answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if lowat := getattr(socket, "TCP_NOTSENT_LOWAT", 0):
        # Connections inherit it. Otherwise the kernel buffers megabytes for a slow client.
        listener.setsockopt(socket.IPPROTO_TCP, lowat, _UNSENT_BYTES)
    try:
        listener.bind((config.host, config.port))
        return listener
    except OSError as error:
        listener.close()
        raise InvalidConfig(
            f"cannot serve HTTP on {config.host}:{config.port} ({error.strerror}); stop the "
            "process that uses it, or choose another port with --http-port (0 lets the system "
            "choose)"
        ) from None
