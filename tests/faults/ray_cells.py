"""Faults in Ray's own processes: under `segue serve` on one machine, and on a cluster of nodes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segue.api.cluster.status import ClusterStatus
from segue.api.turn import TurnEvent
from segue.sdk.client import Client
from tests.cluster.serving import SETTINGS, Serving, is_whole, serving, wait_until
from tests.cluster.waiting import is_idle, wait_until_idle
from tests.faults.cell import Result, count, detected_s
from tests.faults.clients.workload import Door, Heard, SdkDoor, all_say, undisturbed
from tests.faults.cluster import nursery
from tests.faults.cluster.ray_nodes import PINS, RayNodes, environment, ray_nodes
from tests.faults.matrix import Cell, Fault, Moment, Target
from tests.faults.strikes import STOPPED_S

_PARTS = {Target.RAYLET: "raylet", Target.GCS: "gcs_server"}
_NUMBERS = {Fault.KILL: signal.SIGKILL, Fault.TERM: signal.SIGTERM}
_NUM_NODES = 3
_SIZES = ("--prefill", "2", "--decode", "2", "--no-http")
_GONE_S = 20.0
# Ray takes this long to notice most things.
_AFTER_S = 10.0
_LOOK_EVERY_S = 0.1


class RayStage:
    """Keeps a cluster of nodes between cells, as long as it is whole. Close it at the end."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._scene: _Scene | None = None

    async def run(self, cell: Cell, seed: int) -> Result:
        """Two workers of each role, and of several nodes one that is free."""
        result = Result.of(cell, seed)
        nursery.prepare()
        if self._scene is None:
            self._scene = await asyncio.to_thread(self._start, cell)
        scene = self._scene
        started_at = time.monotonic()
        address = await asyncio.to_thread(scene.serving.address)
        async with Client(address) as client:
            if seed not in scene.expected:
                await asyncio.to_thread(wait_until, address, _has_all)
                scene.expected[seed] = await undisturbed(SdkDoor(client, f"{started_at}"), seed)
            act = _Act(cell, scene, SdkDoor(client, f"{cell} {started_at}"), seed)
            turns = await act.play()
            count(result, turns, scene.expected[seed][: len(turns)])
            await act.wait_for_end()
            if not act.ended_at:
                result.detected_s = detected_s(scene.serving.log("router"), act.victims, act.at)
                await self._settle(result, client, address, act)
        if act.ended_at:
            text, code = scene.serving.text(), scene.serving.process.returncode
            last = next((line for line in text.splitlines() if "error" in line), "")
            result.ended = f"status {code} after {act.ended_at - act.struck_at:.1f} s: {last}"
        await self._leave(cell, result)
        result.wall_s = time.monotonic() - started_at
        return result

    def _start(self, cell: Cell) -> _Scene:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="segue-ray-")))
        if cell.target in _PARTS:
            return _Scene(self._stack.enter_context(serving(folder, *_SIZES)), None)
        nodes = self._stack.enter_context(ray_nodes(_NUM_NODES))
        pinned = folder / "pinned.toml"
        pinned.write_text(SETTINGS + PINS)
        joining = ("--ray-address", nodes.address, "--config", str(pinned))
        started = serving(folder, *_SIZES, *joining, environment=environment())
        return _Scene(self._stack.enter_context(started), nodes)

    async def _settle(self, result: Result, client: Client, address: str, act: _Act) -> None:
        started_at = time.monotonic()
        await asyncio.to_thread(wait_until, address, _has_all)
        result.whole_s = time.monotonic() - started_at
        status = await wait_until_idle(client)
        result.units = "" if is_idle(status) else str(status)
        result.processes = await _until_gone(act.doomed)

    async def _leave(self, cell: Cell, result: Result) -> None:
        """Ends the cluster, unless only a node is gone."""
        if self._scene is not None and cell.target is Target.NODE and result.is_tidy:
            if cell.fault is not Fault.STOP_3 and self._scene.nodes is not None:
                await asyncio.to_thread(self._scene.refill)
            return
        if self._scene is not None and not result.ended:
            code = await asyncio.to_thread(self._scene.serving.end)
            if code != 0:
                result.errors.append(f"segue serve ended with {code} when it was stopped")
        await self.close()
        result.processes += await _until_gone(nursery.marked())

    async def close(self) -> None:
        self._scene = None
        await asyncio.to_thread(self._stack.close)


def _has_all(status: ClusterStatus) -> bool:
    return is_whole(status) and len(status.workers) == 4


@dataclass(slots=True)
class _Scene:
    serving: Serving
    nodes: RayNodes | None
    """None: the Ray that `segue serve` has started."""
    expected: dict[int, list[Heard]] = field(default_factory=dict)

    def refill(self) -> None:
        """Replaces the nodes that are gone."""
        assert self.nodes is not None, "a node was struck"
        pids = self.nodes.raylet_pids
        pids[:] = [pid for pid in pids if pid in nursery.marked()]
        for _ in range(_NUM_NODES - len(pids)):
            self.nodes.add()


@dataclass(slots=True)
class _Act:
    """The turns of a cell, with the fault in the second."""

    cell: Cell
    scene: _Scene
    door: Door
    seed: int
    struck_at: float = 0.0
    at: float = 0.0
    """The same by the clock of the logs."""
    victims: list[str] = field(default_factory=list)
    """The workers on the node that is struck."""
    doomed: dict[int, str] = field(default_factory=dict)
    """Command lines of the processes that must end with it."""
    ended_at: float = 0.0
    """0: `segue serve` runs."""
    has_tokens: asyncio.Event = field(default_factory=asyncio.Event)

    async def play(self) -> list[Heard]:
        """Ends early if the cluster ends."""
        turns = await all_say(self.door, self.seed, 0)
        if self.cell.moment is Moment.BETWEEN:
            self.has_tokens.set()
        striking = asyncio.create_task(self._strike())
        if self.cell.moment is Moment.BETWEEN:
            await asyncio.sleep(_LOOK_EVERY_S)
        turns += await self._unless_ended(1)
        await striking
        if not self._has_ended():
            turns += await self._unless_ended(2)
        return turns

    async def _unless_ended(self, number: int) -> Sequence[Heard]:
        heard: list[Heard] = []
        saying = asyncio.create_task(all_say(self.door, self.seed, number, self._on_event, heard))
        while not saying.done() and not self._has_ended():
            await asyncio.wait([saying], timeout=_LOOK_EVERY_S)
        if not saying.done():
            # Turns may have ended just before.
            await asyncio.wait([saying], timeout=1.0)
            saying.cancel()
        return heard

    def _on_event(self, heard: Heard, event: TurnEvent) -> None:
        if heard.token_ids:
            self.has_tokens.set()

    async def _strike(self) -> None:
        await self.has_tokens.wait()
        pid = self._pid()
        self.struck_at, self.at = time.monotonic(), time.time()
        if (stopped_s := STOPPED_S.get(self.cell.fault)) is not None:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(stopped_s)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        else:
            os.kill(pid, _NUMBERS[self.cell.fault])

    def _pid(self) -> int:
        """The process id of the victim; of nodes, that of the first decode worker's."""
        nodes = self.scene.nodes
        if nodes is None:
            part = f"/{_PARTS[self.cell.target]}"
            lines = nursery.marked().items()
            (pid,) = (pid for pid, line in lines if line.split()[0].endswith(part))
            return pid
        if self.cell.target is Target.HEAD:
            return nodes.gcs_pid
        above = nursery.with_ancestors(self.scene.serving.pid("decode-0"))
        pid = next(pid for pid in above if pid in nodes.raylet_pids)
        on_node = dict(self._on_node(pid))
        workers = [f"{role}-{index}" for role in ("prefill", "decode") for index in range(2)]
        self.victims = [name for name in workers if self.scene.serving.pid(name) in on_node]
        if self.cell.fault in _NUMBERS:
            self.doomed = on_node
        return pid

    def _on_node(self, raylet: int) -> Iterator[tuple[int, str]]:
        for pid, line in nursery.marked().items():
            if raylet in nursery.with_ancestors(pid):
                yield pid, line

    async def wait_for_end(self) -> None:
        """Returns when `segue serve` has ended, or goes on for long enough."""
        while not self._has_ended() and time.monotonic() < self.struck_at + _AFTER_S:
            await asyncio.sleep(_LOOK_EVERY_S)

    def _has_ended(self) -> bool:
        if self.scene.serving.process.poll() is not None and not self.ended_at:
            self.ended_at = time.monotonic()
        return bool(self.ended_at)


async def _until_gone(pids: dict[int, str]) -> list[str]:
    """The command lines of those that are still there in the end."""
    ends_at = time.monotonic() + _GONE_S
    while True:
        marked = nursery.marked()
        left = [line for pid, line in pids.items() if pid in marked]
        if not left or time.monotonic() > ends_at:
            return left
        await asyncio.sleep(_LOOK_EVERY_S)
