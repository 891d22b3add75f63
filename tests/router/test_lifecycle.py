"""A turn's lifecycle as a table of transitions: every other pair raises."""

from __future__ import annotations

import itertools

import pytest

from router.placement.estimate import Placement
from router.turn.lifecycle import (
    Dispatched,
    Ended,
    FirstToken,
    Over,
    Placed,
    PlacedOn,
    Received,
    Retried,
    Streaming,
    TicketTaken,
    TurnChange,
    TurnState,
    advance,
    holders,
)
from segue.api.cluster.status import WorkerStatus
from segue.api.errors import IllegalTransition
from segue.api.types import Epoch, Role, WorkerId

PREFILL = WorkerStatus(worker_id=WorkerId("p"), role=Role.PREFILL, epoch=Epoch(1), address="p:1")
DECODE = WorkerStatus(worker_id=WorkerId("d"), role=Role.DECODE, epoch=Epoch(1), address="d:1")
PLACEMENT = Placement(prefill=PREFILL, decode=DECODE)

RECEIVED = Received()
PLACED = Placed(PLACEMENT)
DISPATCHED = Dispatched(2.0, PLACEMENT)
STREAMING = Streaming(2.0, 3.0, PLACEMENT)
OVER = Over("stop")

TABLE: dict[tuple[TurnState, TurnChange], TurnState] = {
    (RECEIVED, PlacedOn(PLACEMENT)): PLACED,
    (RECEIVED, Ended("failed")): Over("failed"),
    (PLACED, TicketTaken(2.0)): DISPATCHED,
    (PLACED, Retried()): RECEIVED,
    (PLACED, Ended("failed")): Over("failed"),
    (DISPATCHED, FirstToken(3.0)): STREAMING,
    (DISPATCHED, Retried()): RECEIVED,
    (DISPATCHED, Ended("failed")): Over("failed"),
    (STREAMING, Retried()): RECEIVED,
    (STREAMING, Ended("failed")): Over("failed"),
    (OVER, Ended("failed")): OVER,
}
STATES = [RECEIVED, PLACED, DISPATCHED, STREAMING, OVER]
CHANGES = [PlacedOn(PLACEMENT), TicketTaken(2.0), FirstToken(3.0), Retried(), Ended("failed")]


@pytest.mark.parametrize(("pair", "following"), TABLE.items())
def test_the_listed_transitions_are_allowed(
    pair: tuple[TurnState, TurnChange], following: TurnState
) -> None:
    assert advance(*pair) == following


@pytest.mark.parametrize(
    ("state", "change"), [pair for pair in itertools.product(STATES, CHANGES) if pair not in TABLE]
)
def test_every_other_transition_raises(state: TurnState, change: TurnChange) -> None:
    with pytest.raises(IllegalTransition):
        advance(state, change)


@pytest.mark.parametrize(
    ("state", "who"),
    [
        (RECEIVED, ()),
        (PLACED, (DECODE,)),
        (DISPATCHED, (PREFILL, DECODE)),
        (STREAMING, (PREFILL, DECODE)),
        (OVER, ()),
    ],
)
def test_a_state_lists_the_workers_that_may_hold_memory(
    state: TurnState, who: tuple[WorkerStatus, ...]
) -> None:
    assert holders(state) == who
