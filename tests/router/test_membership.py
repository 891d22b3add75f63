from __future__ import annotations

from dataclasses import replace

import pytest

from router.membership.membership import Membership
from segue.api.cluster.status import UnitCounts, WorkerHealth, WorkerLoad, WorkerStatus
from segue.api.errors import LayoutMismatch, StaleEpoch
from segue.api.types import Epoch, Role, WorkerId
from tests.router.placed import ManualClock

FIRST_LIFE = WorkerStatus(
    worker_id=WorkerId("decode-0"), role=Role.DECODE, epoch=Epoch(1), address="127.0.0.1:1"
)
SECOND_LIFE = replace(FIRST_LIFE, epoch=Epoch(2), address="127.0.0.1:2")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(0.0)


@pytest.fixture
def gone() -> list[WorkerStatus]:
    """Workers that left or were forgotten, in order."""
    return []


@pytest.fixture
async def membership(clock: ManualClock, gone: list[WorkerStatus]) -> Membership:
    return membership_of("m1", clock, gone)


def membership_of(model_id: str, clock: ManualClock, gone: list[WorkerStatus]) -> Membership:
    return Membership(
        model_id=model_id,
        heartbeat_timeout_s=5.0,
        forget_lost_s=60.0,
        clock=clock,
        on_status=lambda _: None,
        on_gone=gone.append,
    )


async def test_a_silent_worker_is_lost_and_a_heartbeat_brings_it_back(
    membership: Membership, clock: ManualClock
) -> None:
    membership.heartbeat(FIRST_LIFE, "m1")
    clock.now = 6.0
    membership.notice_silence()
    assert membership.workers() == [replace(FIRST_LIFE, health=WorkerHealth.LOST)]

    membership.heartbeat(FIRST_LIFE, "m1")

    assert membership.workers() == [FIRST_LIFE]


async def test_a_later_life_replaces_an_earlier_one_for_good(membership: Membership) -> None:
    membership.heartbeat(FIRST_LIFE, "m1")
    membership.heartbeat(SECOND_LIFE, "m1")

    with pytest.raises(StaleEpoch, match="was replaced"):
        membership.heartbeat(FIRST_LIFE, "m1")

    assert membership.workers() == [SECOND_LIFE]


async def test_the_end_of_an_earlier_life_does_not_touch_the_later_one(
    membership: Membership,
) -> None:
    membership.heartbeat(SECOND_LIFE, "m1")

    membership.lost(FIRST_LIFE.worker_id, FIRST_LIFE.epoch)

    assert membership.workers() == [SECOND_LIFE]


async def test_a_worker_with_another_model_is_refused(membership: Membership) -> None:
    with pytest.raises(LayoutMismatch, match="serves model m2, this router serves m1"):
        membership.heartbeat(FIRST_LIFE, "m2")

    assert membership.workers() == []


async def test_a_view_is_sent_at_once_and_after_each_change_but_not_for_mere_load(
    membership: Membership,
) -> None:
    views = membership.views()
    assert await anext(views) == []

    membership.heartbeat(FIRST_LIFE, "m1")
    assert await anext(views) == [FIRST_LIFE]

    membership.heartbeat(replace(FIRST_LIFE, load=WorkerLoad(running_turns=3)), "m1")
    membership.lost(FIRST_LIFE.worker_id, FIRST_LIFE.epoch)
    (lost,) = await anext(views)
    assert lost.health is WorkerHealth.LOST


async def test_the_first_worker_says_what_weights_are_quantised_to(clock: ManualClock) -> None:
    membership = membership_of("m1", clock, [])
    membership.heartbeat(FIRST_LIFE, "m1-int8")

    for other in ("m1", "m1-int4"):
        with pytest.raises(LayoutMismatch, match=r"same \[engine\] quantization"):
            membership.heartbeat(SECOND_LIFE, other)


async def test_a_router_without_weights_takes_the_first_workers_model(clock: ManualClock) -> None:
    membership = membership_of("", clock, [])
    membership.heartbeat(FIRST_LIFE, "m1")

    with pytest.raises(LayoutMismatch, match="serves model m2, this router serves m1"):
        membership.heartbeat(SECOND_LIFE, "m2")


async def test_a_lost_worker_shows_no_turns_because_they_have_failed(
    membership: Membership,
) -> None:
    load = WorkerLoad(
        running_turns=3, waiting_turns=2, waiting_tokens=900, pages=UnitCounts(total=9, free=4)
    )
    membership.heartbeat(replace(FIRST_LIFE, load=load), "m1")

    membership.lost(FIRST_LIFE.worker_id, FIRST_LIFE.epoch)

    (lost,) = membership.workers()
    assert lost.health is WorkerHealth.LOST
    assert lost.load == WorkerLoad(pages=UnitCounts(total=9, free=4))


async def test_a_worker_that_leaves_is_removed_at_once(
    membership: Membership, gone: list[WorkerStatus]
) -> None:
    membership.heartbeat(FIRST_LIFE, "m1")
    views = membership.views()
    assert await anext(views) == [FIRST_LIFE]

    membership.left(FIRST_LIFE.worker_id, FIRST_LIFE.epoch)
    # Its stream ends afterwards.
    membership.lost(FIRST_LIFE.worker_id, FIRST_LIFE.epoch)

    assert await anext(views) == []
    assert gone == [FIRST_LIFE]


async def test_a_leave_of_an_earlier_life_does_not_touch_the_later_one(
    membership: Membership, gone: list[WorkerStatus]
) -> None:
    membership.heartbeat(SECOND_LIFE, "m1")

    membership.left(FIRST_LIFE.worker_id, FIRST_LIFE.epoch)

    assert membership.workers() == [SECOND_LIFE]
    assert gone == []


async def test_a_stop_of_the_router_itself_is_not_a_silence_of_its_workers(
    membership: Membership, clock: ManualClock
) -> None:
    membership.heartbeat(FIRST_LIFE, "m1")
    membership.notice_silence()
    clock.now = 20.0
    membership.notice_silence()
    assert membership.workers() == [FIRST_LIFE]

    for clock.now in (22.0, 24.0, 26.0):
        membership.notice_silence()
    assert membership.workers() == [replace(FIRST_LIFE, health=WorkerHealth.LOST)]


async def test_a_lost_worker_is_forgotten_some_time_after_its_loss(
    membership: Membership, clock: ManualClock, gone: list[WorkerStatus]
) -> None:
    membership.heartbeat(FIRST_LIFE, "m1")
    clock.now = 50.0
    membership.notice_silence()
    # A stream that breaks after its worker was lost does not restart the timer.
    clock.now = 100.0
    membership.lost(FIRST_LIFE.worker_id, FIRST_LIFE.epoch)
    membership.notice_silence()
    assert [worker.health for worker in membership.workers()] == [WorkerHealth.LOST]

    clock.now = 110.0
    membership.notice_silence()

    assert membership.workers() == []
    assert [worker.worker_id for worker in gone] == [FIRST_LIFE.worker_id]


async def test_an_earlier_life_stays_refused_after_the_later_one_is_gone(
    membership: Membership, clock: ManualClock
) -> None:
    """It may have hung while its successor joined and left."""
    membership.heartbeat(SECOND_LIFE, "m1")
    membership.left(SECOND_LIFE.worker_id, SECOND_LIFE.epoch)

    with pytest.raises(StaleEpoch, match="was replaced"):
        membership.heartbeat(FIRST_LIFE, "m1")

    assert membership.workers() == []


async def test_a_forgotten_worker_that_sends_a_heartbeat_is_a_member_again(
    membership: Membership, clock: ManualClock
) -> None:
    membership.heartbeat(FIRST_LIFE, "m1")
    clock.now = 6.0
    membership.notice_silence()
    clock.now = 66.0
    membership.notice_silence()
    assert membership.workers() == []

    membership.heartbeat(FIRST_LIFE, "m1")

    assert membership.workers() == [FIRST_LIFE]
