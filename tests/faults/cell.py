"""One cell of the matrix: three turns of eight sessions, a fault in the second, the accounts."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from segue.sdk.client import Client
from tests.faults import moments, strikes
from tests.faults.clients.workload import (
    NUM_TURNS,
    Door,
    Heard,
    all_say,
    longest_silence_s,
    num_wrong,
)
from tests.faults.cluster import sockets
from tests.faults.cluster.processes import CLIENT, ROUTER, ProcessCluster
from tests.faults.matrix import Cell, Fault

_MOMENT_S = 15.0
_WHOLE_S = 60.0
# A half-open connection is noticed by its keepalive, after 40 s at the side of the server. Until
# then a worker holds what its turns have reserved.
_IDLE_S = {Fault.HALF_OPEN: 45.0}
_CLOSED_S = {Fault.HALF_OPEN: 45.0}
_LOOK_EVERY_S = 0.2
_MOONCAKE_PORTS = range(15000, 17001)


@dataclass(slots=True, kw_only=True)
class Result:
    """The result of a cell; docs/faults.md explains each field."""

    target: str
    fault: str
    moment: str
    seed: int
    left_out: str = ""
    missed: bool = False
    """The moment did not come, so nothing was broken."""
    num_turns: int = 0
    num_failed: int = 0
    num_lost: int = 0
    num_wrong: int = 0
    num_resumed: int = 0
    longest_gap_s: float = 0.0
    silence_s: float = 0.0
    detected_s: float | None = None
    whole_s: float | None = None
    units: str = ""
    processes: list[str] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    num_mooncake_sockets: int = 0
    """Mooncake's sockets so far in this cluster, which `sockets` does not include."""
    ended: str = ""
    """How `segue serve` ended, if it did."""
    wall_s: float = 0.0
    errors: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, cell: Cell, seed: int) -> Result:
        return cls(target=cell.target, fault=cell.fault, moment=cell.moment, seed=seed)

    @property
    def cell(self) -> str:
        return f"{self.target} {self.fault} {self.moment}"

    @property
    def is_tidy(self) -> bool:
        """Whether nothing is left behind, so that the cluster can serve the next cell."""
        is_whole = self.whole_s is not None
        return is_whole and not (self.units or self.processes or self.sockets or self.missed)

    @property
    def is_good(self) -> bool:
        if self.ended:
            # No worker is left: the cluster must exit with a clear status.
            return self.ended.startswith("status 1") and not (self.processes or self.num_wrong)
        return bool(self.left_out) or (self.is_tidy and not (self.num_failed or self.num_wrong))


async def run_cell(
    cell: Cell,
    cluster: ProcessCluster,
    monitor: Client,
    door: Door,
    expected: Sequence[Heard],
    seed: int,
) -> Result:
    """`expected`: the same turns, undisturbed. Leaves nothing broken."""
    started_at = time.monotonic()
    result = Result.of(cell, seed)
    scene = moments.Scene(cluster, monitor)
    turns = await all_say(door, seed, 0)
    moments.arm(cell.moment, cluster)
    striking = asyncio.create_task(_strike(cell, scene))
    try:
        if cell.moment in moments.BEFORE_THE_TURN:
            await asyncio.wait([striking])
        turns += await all_say(door, seed, 1, scene.on_event)
        # At the latest now the moment is over.
        done, _ = await asyncio.wait([striking], timeout=0.5)
        why_missed = striking.exception() if done else None
        result.missed = not done or why_missed is not None
        for number in range(2, NUM_TURNS):
            turns += await all_say(door, seed, number)
        if not result.missed:
            struck = striking.result()
            log = cluster[ROUTER].log.read_text(errors="replace")
            result.detected_s = detected_s(log, [struck.victim], struck.at)
            await struck.undone
            result.missed = not cluster[struck.victim].hold.has_broken()
    finally:
        striking.cancel()
        moments.clear(cluster)
    count(result, turns, expected)
    if why_missed is not None:
        result.errors.append(f"missed: {why_missed!r}")
    await _settle(cell, cluster, monitor, result)
    result.wall_s = time.monotonic() - started_at
    return result


@dataclass(frozen=True, slots=True)
class _Struck:
    victim: str
    at: float
    """By the clock of the logs."""
    undone: asyncio.Task[None]


async def _strike(cell: Cell, scene: moments.Scene) -> _Struck:
    cluster = scene.cluster
    try:
        async with asyncio.timeout(_MOMENT_S):
            where = await moments.reached(cell.moment, scene)
            await strikes.lead_in(cell, cluster, where)
        undone = strikes.strike(cell, cluster, where)
        return _Struck(strikes.victim_of(cell, where), time.time(), undone)
    finally:
        moments.release(cluster)


def count(result: Result, turns: Sequence[Heard], expected: Sequence[Heard]) -> None:
    """Sets the fields that the clients observe. `expected`: the same turns, undisturbed."""
    result.num_turns = len(turns)
    result.num_failed = sum(bool(heard.failures) or not heard.is_over for heard in turns)
    result.num_lost = sum(not heard.is_over for heard in turns)
    result.num_wrong = num_wrong(turns, expected)
    result.num_resumed = sum(heard.resumed for heard in turns)
    result.longest_gap_s = max(heard.longest_gap_s for heard in turns)
    result.silence_s = longest_silence_s(turns, expected)
    result.errors = sorted({failure for heard in turns for failure in heard.failures})


def detected_s(log: str, victims: Sequence[str], struck_at: float) -> float | None:
    """Seconds until the router logs that one of the workers is lost, left or was replaced; None if
    never. `struck_at`: by the clock of the log.
    """
    for line in log.splitlines():
        found = re.search(r"worker (?:lost|left|joined) worker=([\w-]+)", line)
        at = _time_of(line) if found and found[1] in victims else None
        if at is not None and at >= struck_at:
            return at - struck_at
    return None


def _time_of(line: str) -> float | None:
    """Log lines start with the local time: 2026-11-29 20:15:03,123."""
    try:
        seconds, _, milliseconds = line[:23].partition(",")
        return time.mktime(time.strptime(seconds, "%Y-%m-%d %H:%M:%S")) + int(milliseconds) / 1e3
    except ValueError:
        return None


async def _settle(cell: Cell, cluster: ProcessCluster, monitor: Client, result: Result) -> None:
    """Waits for the cluster to be whole and idle, and looks for leaks."""
    started_at = time.monotonic()
    if await cluster.wait_until_whole(monitor, _WHOLE_S):
        result.whole_s = time.monotonic() - started_at
        result.units = await cluster.units_in_use(monitor, _IDLE_S.get(cell.fault, 20.0))
    timeout_s = _CLOSED_S.get(cell.fault, 5.0)
    result.processes = await _until_empty(lambda: [*cluster.left_over().values()], timeout_s)
    result.sockets = await _until_empty(lambda: _sockets(cluster), timeout_s)
    left = sockets.abandoned_by_peer(cluster.pids())
    result.num_mooncake_sockets = sum(map(_of_mooncake, left))
    cluster.network.end_silent()


def _sockets(cluster: ProcessCluster) -> list[str]:
    """Connections that a process still has open though their other end is gone."""
    pids = [pid for pid, name in cluster.pids().items() if name != CLIENT]
    left = [
        f"{c.local} → {c.remote}" for c in sockets.abandoned_by_peer(pids) if not _of_mooncake(c)
    ]
    silent = cluster.network.num_silent()
    return left + [f"{silent} half-open connections"] * bool(silent)


def _of_mooncake(connection: sockets.Connection) -> bool:
    """Its engine keeps one to each peer that it wrote to, even after the peer's death."""
    return connection.remote[1] in _MOONCAKE_PORTS or connection.local[1] in _MOONCAKE_PORTS


async def _until_empty(look: Callable[[], list[str]], timeout_s: float) -> list[str]:
    ends_at = time.monotonic() + timeout_s
    while (found := look()) and time.monotonic() < ends_at:
        await asyncio.sleep(_LOOK_EVERY_S)
    return found


def failed(cell: Cell, seed: int, error: BaseException) -> Result:
    """The result of a cell whose run itself failed."""
    result = Result.of(cell, seed)
    result.errors = [f"THE RUN FAILED {type(error).__name__}: {error}"]
    result.num_failed = result.num_lost = 1
    return result
