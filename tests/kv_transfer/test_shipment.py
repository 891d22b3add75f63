from __future__ import annotations

import itertools

import pytest

from kv_transfer.writing.shipment import (
    AllQueued,
    AwaitingWrites,
    Failed,
    PieceArrived,
    PieceFailed,
    PieceQueued,
    PieceStarted,
    Shipped,
    Shipping,
    StopAsked,
    Stopped,
    Stopping,
    WriterEvent,
    WriterState,
    advance_writer,
)
from segue.api.errors import IllegalTransition

IDLE = Shipping(0, False)
WAITING = Shipping(2, False)
MOVING = Shipping(1, True)
DRAINING = AwaitingWrites(1, False)
DRAINING_MOVING = AwaitingWrites(1, True)
LAST = AwaitingWrites(0, True)
STOPPING = Stopping("fenced")
SHIPPED = Shipped()
FAILED = Failed("peer gone")
STOPPED = Stopped("fenced")

QUEUE = PieceQueued()
START = PieceStarted()
ARRIVE = PieceArrived()
FAIL = PieceFailed("peer gone")
CLOSE = AllQueued()
STOP = StopAsked("fenced")

STATES: tuple[WriterState, ...] = (
    IDLE,
    WAITING,
    MOVING,
    DRAINING,
    DRAINING_MOVING,
    LAST,
    STOPPING,
    SHIPPED,
    FAILED,
    STOPPED,
)
EVENTS: tuple[WriterEvent, ...] = (QUEUE, START, ARRIVE, FAIL, CLOSE, STOP)

TABLE: dict[tuple[WriterState, WriterEvent], WriterState] = {
    (IDLE, QUEUE): Shipping(1, False),
    (IDLE, CLOSE): SHIPPED,
    (IDLE, STOP): STOPPED,
    (WAITING, QUEUE): Shipping(3, False),
    (WAITING, START): MOVING,
    (WAITING, CLOSE): AwaitingWrites(2, False),
    (WAITING, STOP): STOPPED,
    (MOVING, QUEUE): Shipping(2, True),
    (MOVING, ARRIVE): Shipping(1, False),
    (MOVING, FAIL): FAILED,
    (MOVING, CLOSE): DRAINING_MOVING,
    (MOVING, STOP): STOPPING,
    (DRAINING, START): LAST,
    (DRAINING, CLOSE): DRAINING,
    (DRAINING, STOP): STOPPED,
    (DRAINING_MOVING, ARRIVE): DRAINING,
    (DRAINING_MOVING, FAIL): FAILED,
    (DRAINING_MOVING, CLOSE): DRAINING_MOVING,
    (DRAINING_MOVING, STOP): STOPPING,
    (LAST, ARRIVE): SHIPPED,
    (LAST, FAIL): FAILED,
    (LAST, CLOSE): LAST,
    (LAST, STOP): STOPPING,
    (STOPPING, ARRIVE): STOPPED,
    (STOPPING, FAIL): STOPPED,
    (STOPPING, QUEUE): STOPPING,
    (STOPPING, CLOSE): STOPPING,
    (STOPPING, STOP): STOPPING,
    **{(SHIPPED, event): SHIPPED for event in EVENTS if event != QUEUE},
    **{(FAILED, event): FAILED for event in EVENTS},
    **{(STOPPED, event): STOPPED for event in EVENTS},
}


@pytest.mark.parametrize(("state", "event"), TABLE, ids=repr)
def test_each_event_leads_to_the_state_in_the_table(state: WriterState, event: WriterEvent) -> None:
    assert advance_writer(state, event) == TABLE[state, event]


@pytest.mark.parametrize(
    ("state", "event"),
    [pair for pair in itertools.product(STATES, EVENTS) if pair not in TABLE],
    ids=repr,
)
def test_every_other_pair_raises(state: WriterState, event: WriterEvent) -> None:
    with pytest.raises(IllegalTransition):
        advance_writer(state, event)


def test_the_first_reason_to_stop_is_kept() -> None:
    state = advance_writer(MOVING, StopAsked("cancelled"))

    state = advance_writer(advance_writer(state, STOP), FAIL)

    assert state == Stopped("cancelled")
