"""Faults in Ray's own processes, under `segue serve`."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segue.api.turn import TurnEvent
from segue.sdk.client import Client
from tests.cluster.serving import Serving, is_whole, serving, wait_until
from tests.cluster.waiting import is_idle, wait_until_idle
from tests.faults.cell import Result, count
from tests.faults.clients.workload import Door, Heard, SdkDoor, all_say, undisturbed
from tests.faults.cluster import nursery
from tests.faults.matrix import Cell, Fault, Moment, Target

_PARTS = {Target.RAYLET: "raylet", Target.GCS: "gcs_server"}
_NUMBERS = {Fault.KILL: signal.SIGKILL, Fault.TERM: signal.SIGTERM}
_STOPPED_S = {Fault.STOP_3: 3.0, Fault.STOP_20: 20.0}
_GONE_S = 20.0
# Ray takes this long to notice most things.
_AFTER_S = 10.0
_LOOK_EVERY_S = 0.1


async def run_ray_cell(cell: Cell, seed: int) -> Result:
    """Starts `segue serve` for this cell, with two workers of each role."""
    result = Result(target=cell.target, fault=cell.fault, moment=cell.moment, seed=seed)
    with tempfile.TemporaryDirectory(prefix="segue-faults-") as name:
        environment = {nursery.MARK: nursery.mark()}
        sizes = ("--prefill", "2", "--decode", "2", "--no-http")
        with serving(Path(name), *sizes, environment=environment) as cluster:
            address = await asyncio.to_thread(cluster.address)
            async with Client(address) as client:
                expected = await undisturbed(SdkDoor(client, "undisturbed"), seed)
                began_at = time.monotonic()
                door = SdkDoor(client, "disturbed")
                act = _Act(cell, cluster, door, seed)
                turns = await act.play()
                count(result, turns, expected[: len(turns)])
                await act.wait_for_end()
                if not act.ended_at:
                    await asyncio.to_thread(wait_until, address, is_whole)
                    result.whole_s = time.monotonic() - began_at
                    status = await wait_until_idle(client)
                    result.units = "" if is_idle(status) else str(status)
            if act.ended_at:
                last = next((line for line in cluster.text().splitlines() if "error" in line), "")
                code, after_s = cluster.process.returncode, act.ended_at - act.struck_at
                result.ended = f"status {code} after {after_s:.1f} s: {last}"
            elif (code := await asyncio.to_thread(cluster.end)) != 0:
                result.errors.append(f"segue serve ended with {code} when it was stopped")
        result.processes = await _left_over()
        result.wall_s = time.monotonic() - began_at
    return result


@dataclass(slots=True)
class _Act:
    """The turns of a cell, with the fault in the second."""

    cell: Cell
    cluster: Serving
    door: Door
    seed: int
    struck_at: float = 0.0
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
        pid = _pid_of(_PARTS[self.cell.target])
        self.struck_at = time.monotonic()
        if (stopped_s := _STOPPED_S.get(self.cell.fault)) is not None:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(stopped_s)
            os.kill(pid, signal.SIGCONT)
        else:
            os.kill(pid, _NUMBERS[self.cell.fault])

    async def wait_for_end(self) -> None:
        """Returns when `segue serve` has ended, or goes on for long enough."""
        while not self._has_ended() and time.monotonic() < self.struck_at + _AFTER_S:
            await asyncio.sleep(_LOOK_EVERY_S)

    def _has_ended(self) -> bool:
        if self.cluster.process.poll() is not None and not self.ended_at:
            self.ended_at = time.monotonic()
        return bool(self.ended_at)


def _pid_of(part: str) -> int:
    """Of the `segue serve` that this process has started."""
    (pid,) = (pid for pid, line in nursery.marked().items() if line.split()[0].endswith(f"/{part}"))
    return pid


async def _left_over() -> list[str]:
    ends_at = time.monotonic() + _GONE_S
    while (left := nursery.marked()) and time.monotonic() < ends_at:
        await asyncio.sleep(_LOOK_EVERY_S)
    return [*left.values()]
