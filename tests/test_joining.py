"""A worker with several routers: whom it takes for a member, and what it survives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.errors import InvalidRequest
from segue.api.types import Epoch, Role, WorkerId
from segue.wire.streams import join
from segue.wire.streams.join import KeepsNothing
from segue.worker.membership.joining import View, members_of, stay_joined_to
from segue.worker.process.options import WorkerOptions
from tests.wire.test_join import STATUS, recording_router


def worker(epoch: int = 1, *, is_lost: bool = False, name: str = "prefill-0") -> WorkerStatus:
    return WorkerStatus(
        worker_id=WorkerId(name),
        role=Role.PREFILL,
        epoch=Epoch(epoch),
        address=f"127.0.0.1:{7000 + epoch}",
        health=WorkerHealth.LOST if is_lost else WorkerHealth.READY,
    )


def lost(epoch: int = 1) -> WorkerStatus:
    return worker(epoch, is_lost=True)


def away(*workers: WorkerStatus) -> View:
    return View(workers, is_connected=False)


@pytest.mark.parametrize(
    ("views", "members"),
    [
        ([], []),
        ([View([worker()])], [worker()]),
        ([View([lost()])], [lost()]),
        # A router that has lost its own link to a worker, or has forgotten it, or is new.
        ([View([lost()]), View([worker()])], [worker()]),
        ([View([worker()]), View([lost()])], [worker()]),
        ([View([]), View([worker()])], [worker()]),
        ([View([lost()]), View([lost()])], [lost()]),
        # The latest life counts, whoever knows it.
        ([View([worker(1)]), View([worker(2)])], [worker(2)]),
        ([View([worker(2)]), View([worker(1)])], [worker(2)]),
        ([View([worker(1)]), View([lost(2)])], [lost(2)]),
        # A router that is gone says nothing any more, as long as there is another.
        ([away(worker()), View([lost()])], [lost()]),
        ([away(lost()), View([worker()])], [worker()]),
        ([away(worker(3)), View([worker(2)])], [worker(2)]),
        ([away(worker()), View([])], []),
        # Without any router, running handoffs go on as they were.
        ([away(worker()), away(lost())], [worker()]),
        (
            [View([worker(name="b")]), View([worker(name="a")])],
            [worker(name="a"), worker(name="b")],
        ),
    ],
)
def test_a_worker_lives_if_one_connected_router_says_so(
    views: list[View], members: list[WorkerStatus]
) -> None:
    assert members_of(views) == members


def joining(
    routers: Sequence[str], leaving: asyncio.Event, seen: list[Sequence[WorkerStatus]]
) -> asyncio.Future[None]:
    return asyncio.ensure_future(
        stay_joined_to(
            routers,
            status=lambda: STATUS,
            model_id="m1",
            heartbeat_s=60.0,
            on_members=seen.append,
            leaving=leaving,
            kept=KeepsNothing,
        )
    )


async def test_one_router_that_is_gone_disturbs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "REJOIN_AFTER_S", 0.01)
    leaving, seen = asyncio.Event(), list[Sequence[WorkerStatus]]()
    async with asyncio.timeout(10), recording_router() as (staying, address):
        async with recording_router() as (going, other):
            joined = joining([other, "127.0.0.1:1", address], leaving, seen)
            await going.has_joined.wait()
            await staying.has_joined.wait()
        # Time for some attempts to join again.
        await asyncio.sleep(0.1)
        assert staying.leaves == [False]

        leaving.set()
        await joined

    assert staying.leaves == [False, True]


async def test_without_any_router_the_members_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "REJOIN_AFTER_S", 0.01)
    leaving, seen = asyncio.Event(), list[Sequence[WorkerStatus]]()
    async with asyncio.timeout(10):
        async with recording_router(replace(STATUS, worker_id=WorkerId("peer"))) as (router, at):
            joined = joining([at], leaving, seen)
            await router.has_joined.wait()
        await asyncio.sleep(0.1)
        leaving.set()
        await joined

    assert [[one.worker_id for one in members] for members in seen[-2:]] == [["peer"], ["peer"]]


def test_several_routers_are_separated_by_commas() -> None:
    options = WorkerOptions(worker_id="decode-0", model="m", router_address="a:1, b:2")

    assert options.routers == ("a:1", "b:2")
    with pytest.raises(InvalidRequest, match="HOST:PORT"):
        WorkerOptions(worker_id="decode-0", model="m", router_address="a:1,")
