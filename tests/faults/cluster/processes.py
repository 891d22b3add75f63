"""A router, a gateway and workers as processes, restarted when they end, as Ray does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from segue.api.types import Role
from segue.sdk.client import Client
from segue.wire.server import free_port
from tests.cluster.serving import is_whole
from tests.cluster.waiting import is_idle
from tests.faults.cluster import nursery, sockets
from tests.faults.cluster.network import ANNOUNCE, LISTEN, Network, front_of
from tests.faults.cluster.worker import Hold

CLIENT, ROUTER, GATEWAY, SIBLING = "client", "router", "gateway", "gateway-1"

_RESTART_AFTER_S = 0.2
_LOOK_EVERY_S = 0.05


@dataclass(slots=True, kw_only=True)
class Supervised:
    """A process and those that follow it under the same name."""

    name: str
    spawn: Callable[[], ForkServerProcess]
    log: Path
    hold: Hold
    port: int
    process: ForkServerProcess | None = None
    pids: list[int] = field(default_factory=list)
    """One for each start; the last one is running or about to be restarted."""
    started_at: float = 0.0

    def start(self) -> None:
        self.process = self.spawn()
        assert self.process.pid is not None, "it was started"
        self.pids.append(self.process.pid)
        self.started_at = time.monotonic()

    @property
    def pid(self) -> int:
        return self.pids[-1]

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.exitcode is None

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class ProcessCluster:
    """`router`, `gateway`, `gateway-1`, `prefill-0` and so on by name. One event loop owns it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.processes: dict[str, Supervised] = {}
        self.network = Network(self._name_at)
        self._watch: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """The router's address for workers and clients."""
        return front_of(self.processes[ROUTER].port)

    @property
    def direct_address(self) -> str:
        """The router's address without the proxy."""
        return f"{LISTEN}:{self.processes[ROUTER].port}"

    @property
    def http_addresses(self) -> list[str]:
        """The addresses of both gateways."""
        return [front_of(self.processes[name].port) for name in (GATEWAY, SIBLING)]

    def __getitem__(self, name: str) -> Supervised:
        return self.processes[name]

    def names(self, role: Role) -> list[str]:
        return [name for name in self.processes if name.startswith(role.value)]

    def pids(self) -> dict[int, str]:
        """Names by process id, with this process as the client."""
        running = {one.pid: name for name, one in self.processes.items() if one.is_alive}
        # The client last: it has all sockets of the proxy.
        return {**running, os.getpid(): CLIENT}

    def name_of(self, pid: int | None) -> str:
        """The name of a process that may have ended; empty if it is none of ours."""
        if pid == os.getpid():
            return CLIENT
        return next((name for name, one in self.processes.items() if pid in one.pids), "")

    def _name_at(self, local: tuple[str, int]) -> str:
        return self.name_of(sockets.owner_of(local, self.pids()))

    async def add(self, name: str, kind: str, *arguments: str) -> None:
        """Starts a process behind its proxy."""
        port = free_port(LISTEN, 0)
        folder, log = self._folder / name, self._folder / f"{name}.log"
        where = ["--config", str(self._folder / "segue.toml"), "--port", str(port)]
        if kind != "segue.gateway.__main__":
            where += ["--announce", ANNOUNCE]
        self.processes[name] = one = Supervised(
            name=name,
            spawn=lambda: nursery.start(kind, [*arguments, *where], log=log, folder=folder),
            log=log,
            hold=Hold(folder),
            port=port,
        )
        await self.network.front(name, port)
        one.start()

    def supervise(self) -> None:
        self._watch = asyncio.create_task(self._restart_those_that_end())

    async def _restart_those_that_end(self) -> None:
        ended: dict[str, float] = {}
        while True:
            for name, one in self.processes.items():
                if one.is_alive:
                    continue
                since = ended.setdefault(name, time.monotonic())
                if time.monotonic() >= since + _RESTART_AFTER_S:
                    del ended[name]
                    one.start()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def wait_until_whole(self, client: Client, timeout_s: float) -> bool:
        """Whether every process runs, and every worker is ready in its present life."""
        workers = {name for role in Role for name in self.names(role)}
        ends_at = time.monotonic() + timeout_s
        while time.monotonic() < ends_at:
            with contextlib.suppress(Exception):
                status = await client.status(timeout_s=3.0)
                pids = {str(w.worker_id): w.pid for w in status.workers}
                if is_whole(status) and pids == {name: self[name].pid for name in workers}:
                    return True
            await asyncio.sleep(_LOOK_EVERY_S)
        return False

    async def units_in_use(self, client: Client, timeout_s: float) -> str:
        """Pages and slots that are still not free or cached when nothing runs; empty if none."""
        ends_at = time.monotonic() + timeout_s
        while True:
            status = await client.status()
            if is_idle(status):
                return ""
            if time.monotonic() > ends_at:
                return "; ".join(
                    f"{w.worker_id}: pages {w.load.pages}, slots {w.load.slots}"
                    for w in status.workers
                )
            await asyncio.sleep(_LOOK_EVERY_S)

    def left_over(self) -> dict[int, str]:
        """Command lines of processes that were started for this cluster and should have ended."""
        running = {one.pid for one in self.processes.values() if one.is_alive}
        return {
            pid: line
            for pid, line in nursery.marked().items()
            if running.isdisjoint(nursery.with_ancestors(pid))
        }

    def copy_logs(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for process in self.processes.values():
            shutil.copy(process.log, folder)

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        alive = [one for one in self.processes.values() if one.is_alive]
        for one in alive:
            # After SIGTERM they would try for seconds to move their sessions to each other.
            one.signal(signal.SIGKILL)
        while any(one.is_alive for one in alive):
            await asyncio.sleep(_LOOK_EVERY_S)
        await self.network.close()
