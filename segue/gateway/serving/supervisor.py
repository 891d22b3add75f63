"""Runs several gateway processes on one port, and restarts one that dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from segue.api.errors import InvalidConfig
from segue.gateway.config import GatewayConfig
from segue.gateway.metrics import SHARED_FOLDER
from segue.gateway.serving.http_server import reserved
from segue.gateway.serving.orders import DRAIN, SERVING, Orders
from segue.process.cancellation import uninterrupted
from segue.security.config import Security

logger = logging.getLogger(__name__)

_AGAIN_AFTER_S = 0.5
_LOOK_EVERY_S = 0.1
# After the drain, which has its own limit.
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Several:
    """Running gateway processes."""

    address: str
    port: int
    _children: Sequence[_Child]
    _drain_asked: asyncio.Event

    async def drain_asked(self) -> None:
        """Returns when an operator has asked one of them for a drain: leave the block then."""
        await self._drain_asked.wait()

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(child.pid for child in self._children)


@contextlib.asynccontextmanager
async def running_several(
    config: GatewayConfig, router: str, security: Security, *, log: Path | None = None
) -> AsyncIterator[Several]:
    """Runs `config.processes` gateways of the router until the block ends, then drains them. Raises
    InvalidConfig. `log`: the file that they log to, instead of stderr.
    """
    with (
        contextlib.closing(reserved(config)) as place,
        # A process's metrics outlive it, so that counters never fall.
        tempfile.TemporaryDirectory(prefix="segue-gateway-") as folder,
    ):
        port: int = place.getsockname()[1]
        own = replace(config, port=port)
        drain_asked = asyncio.Event()
        children = [
            _Child(
                Orders(
                    name=f"gateway-{index}", config=own, router=router, security=security, log=log
                ),
                folder,
                drain_asked,
            )
            for index in range(config.processes)
        ]
        keeping: list[asyncio.Task[None]] = []
        try:
            await asyncio.gather(*(child.start() for child in children))
            keeping = [asyncio.create_task(child.keep()) for child in children]
            yield Several(f"{config.host}:{port}", port, children, drain_asked)
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
            await uninterrupted(asyncio.gather(*(child.stop() for child in children)))


class _Child:
    def __init__(self, orders: Orders, folder: str, drain_asked: asyncio.Event) -> None:
        self._orders = orders
        self._folder = folder
        self._drain_asked = drain_asked
        self._process: subprocess.Popen[bytes] | None = None
        self._says = asyncio.StreamReader()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Returns when it serves. Raises InvalidConfig if it exits before that."""
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "segue.gateway.serving.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, SHARED_FOLDER: self._folder},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(pickle.dumps(self._orders))
            process.stdin.flush()
        self._says = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._says), process.stdout
        )
        if await self._says.readline() != SERVING:
            raise InvalidConfig(
                f"{self._orders.name} exited before it served: see its log or stderr"
            )

    async def keep(self) -> None:
        """Restarts it whenever it exits."""
        while True:
            assert self._process is not None
            while said := await self._says.readline():
                if said == DRAIN:
                    self._drain_asked.set()
            await _end_of(self._process)
            self._ended()
            logger.error(
                "a gateway process exited; restarting it",
                extra={"gateway": self._orders.name, "status": self._process.returncode},
            )
            await asyncio.sleep(_AGAIN_AFTER_S)
            with contextlib.suppress(InvalidConfig):
                await self.start()

    async def stop(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(self._orders.config.drain_s + _STOP_S):
                await _end_of(process)
        except TimeoutError:
            logger.error("a gateway process did not stop", extra={"gateway": self._orders.name})
            process.kill()
            await _end_of(process)
        self._ended()

    def _ended(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        mark_process_dead(self._process.pid, self._folder)  # type: ignore[no-untyped-call]


async def _end_of(process: subprocess.Popen[bytes]) -> None:
    # This loop may not be the main thread's, which is the only one that gets SIGCHLD.
    while process.poll() is None:
        await asyncio.sleep(_LOOK_EVERY_S)
