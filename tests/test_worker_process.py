"""A worker process: its readiness probe, and its ways out of service."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from prometheus_client import CollectorRegistry

from segue.api.cluster.drain import DrainReport
from segue.api.cluster.status import WorkerHealth, WorkerLoad, WorkerStatus
from segue.api.errors import InvalidRequest
from segue.api.types import Epoch, Role, WorkerId
from segue.cache.inventory import Inventory
from segue.cache.memory import Strays
from segue.wire.server import Services
from segue.worker.drain import Deadline, MoveSessions
from segue.worker.membership.identity import Identity
from segue.worker.process.command import _until_signal
from segue.worker.process.options import WorkerOptions
from segue.worker.process.serving import Presence, RunningWorker, serving_worker
from segue.worker.watchdog import Patience, Watchdog


def probe(address: str, path: str) -> int:
    connection = http.client.HTTPConnection(address, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


async def probes(address: str) -> tuple[int, int]:
    return (
        await asyncio.to_thread(probe, address, "/livez"),
        await asyncio.to_thread(probe, address, "/readyz"),
    )


class IdleWorker:
    """Computes nothing, and records what its probes answered during the drain."""

    model_id = "none"
    name = WorkerId("decode-0")

    def __init__(self, presence: Presence, warm_up: Callable[[], Awaitable[object]]) -> None:
        self.presence = presence
        self._warm_up = warm_up
        self.inventory = Inventory(())
        self.while_draining: tuple[int, int] | None = None
        self.drains: list[tuple[float, bool]] = []
        self.turn_is_over = asyncio.Event()
        self.turn_is_over.set()
        self.watchdog = Watchdog(Patience(pass_s=3.0))

    def services(self) -> Services:
        return []

    async def warm_up(self) -> None:
        await self._warm_up()

    def status(self) -> WorkerStatus:
        return self.presence.status(WorkerLoad())

    def members_changed(self, workers: Sequence[WorkerStatus]) -> None:
        pass

    def strays(self) -> Strays:
        return Strays({})

    def check_invariants(self) -> None:
        pass

    async def drain(self, until: Deadline, move: MoveSessions | None) -> DrainReport:
        self.drains.append((until.left_s, move is not None))
        self.while_draining = await probes(self.presence.metrics_address)
        is_over = await until.until(self.turn_is_over.is_set)
        return DrainReport(ended_turns=int(is_over), moved_turns=int(not is_over))

    async def close(self) -> None:
        pass


def starting(
    warm_up: Callable[[], Awaitable[object]],
) -> contextlib.AbstractAsyncContextManager[RunningWorker]:
    return serving_worker(
        Identity(worker_id=WorkerId("decode-0"), role=Role.DECODE, epoch=Epoch(1)),
        CollectorRegistry(),
        lambda presence: IdleWorker(presence, warm_up),
        # No router is running: a worker serves without one.
        options=WorkerOptions(worker_id="decode-0", model="m", router_address="127.0.0.1:1"),
        drain_s=20.0,
    )


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[RunningWorker]:
    """A worker that has warmed up."""
    async with starting(lambda: asyncio.sleep(0)) as running:
        while running.worker.presence.health is WorkerHealth.WARMING:
            await asyncio.sleep(0.001)
        yield running


async def test_a_worker_is_ready_until_it_drains() -> None:
    async with serving() as running:
        worker = running.worker
        assert isinstance(worker, IdleWorker)
        assert await probes(worker.presence.metrics_address) == (200, 200)

    assert worker.while_draining == (200, 503)


async def test_a_worker_warms_up_before_it_is_ready() -> None:
    is_warm = asyncio.Event()

    async with starting(is_warm.wait) as running:
        presence = running.worker.presence
        assert running.worker.status().health is WorkerHealth.WARMING
        assert await probes(presence.metrics_address) == (200, 503)
        is_warm.set()
        while await probes(presence.metrics_address) != (200, 200):
            await asyncio.sleep(0.001)
        assert presence.health is WorkerHealth.READY


async def test_a_worker_that_warms_up_can_be_drained() -> None:
    async with starting(asyncio.Event().wait) as running:
        assert await running.worker.presence.drain(1.0, move_sessions=True)
        assert running.worker.presence.health is WorkerHealth.DRAINING


def worker_of(running: RunningWorker) -> IdleWorker:
    assert isinstance(running.worker, IdleWorker)
    return running.worker


async def test_a_block_that_ends_drains_without_moving_sessions() -> None:
    async with serving() as running:
        pass

    ((seconds, moves),) = worker_of(running).drains
    assert (round(seconds), moves) == (20, False)


async def test_a_drain_runs_once_and_later_orders_shorten_it() -> None:
    async with serving() as running:
        worker, presence = worker_of(running), running.worker.presence
        worker.turn_is_over.clear()
        first = asyncio.ensure_future(presence.drain(10.0, move_sessions=True))
        while not worker.drains:
            await asyncio.sleep(0.001)
        assert presence.health is WorkerHealth.DRAINING
        assert 9 < worker.status().drain_left_s <= 10
        second = asyncio.ensure_future(presence.drain(60.0, move_sessions=True))
        third = asyncio.ensure_future(presence.drain(0.0, move_sessions=False))
        reports = await asyncio.gather(first, second, third)

    assert reports == [DrainReport(moved_turns=1)] * 3
    ((seconds, moves),) = worker.drains
    assert (round(seconds), moves) == (10, True)


async def test_a_caller_that_leaves_does_not_end_the_drain() -> None:
    async with serving() as running:
        worker = worker_of(running)
        worker.turn_is_over.clear()
        asking = asyncio.ensure_future(worker.presence.drain(10.0, move_sessions=True))
        await asyncio.sleep(0.05)
        asking.cancel()
        worker.turn_is_over.set()
        report = await worker.presence.drain(10.0, move_sessions=True)

    assert report == DrainReport(ended_turns=1)
    assert len(worker.drains) == 1


async def test_a_drain_without_end_or_before_the_start_is_refused() -> None:
    async with serving() as running:
        for seconds in (float("inf"), float("nan"), -1.0):
            with pytest.raises(InvalidRequest, match="timeout_s must be between"):
                await running.worker.presence.drain(seconds, move_sessions=True)
        assert worker_of(running).drains == []


@contextlib.asynccontextmanager
async def remembered(seen: list[RunningWorker]) -> AsyncIterator[RunningWorker]:
    async with serving() as running:
        seen.append(running)
        yield running


async def process(seen: list[RunningWorker]) -> asyncio.Task[None]:
    """What `python -m decode_worker` runs."""
    running = asyncio.ensure_future(_until_signal(remembered(seen)))
    while not seen:
        await asyncio.sleep(0.001)
    return running


async def test_a_signal_moves_sessions_and_a_second_one_skips_the_rest() -> None:
    seen: list[RunningWorker] = []
    running = await process(seen)
    worker = worker_of(seen[0])
    worker.turn_is_over.clear()
    os.kill(os.getpid(), signal.SIGTERM)
    while not worker.drains:
        await asyncio.sleep(0.001)
    assert worker.drains == [(pytest.approx(20, abs=1), True)]
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 10)


async def test_a_drained_worker_ends_by_itself() -> None:
    seen: list[RunningWorker] = []
    running = await process(seen)
    report = await worker_of(seen[0]).presence.drain(None, move_sessions=True)
    await asyncio.wait_for(running, 10)

    assert report == DrainReport(ended_turns=1)
