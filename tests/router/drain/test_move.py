"""One session's move: every state with every event."""

from __future__ import annotations

import pytest

from router.drain.move import (
    Arrived,
    Assigned,
    GivenUp,
    Left,
    Moved,
    MoveEvent,
    MoveState,
    Moving,
    Refused,
    Waiting,
    advance_move,
)
from segue.api.cluster.drain import Adopted, LeftReason
from segue.api.errors import IllegalTransition
from segue.api.types import WorkerId

ONE, OTHER = WorkerId("decode-1"), WorkerId("decode-2")
ADOPTED = Adopted(kept_tokens=32, kept_states=(16, 32), moved_bytes=100)
FULL, LATE = LeftReason.NO_MEMORY, LeftReason.NO_TIME

NEXT: dict[tuple[MoveState, MoveEvent], MoveState] = {
    (Waiting(), Assigned(ONE)): Moving(ONE, frozenset()),
    (Waiting(), GivenUp(LATE)): Left(LATE),
    (Waiting(frozenset({ONE}), FULL), Assigned(OTHER)): Moving(OTHER, frozenset({ONE})),
    (Waiting(frozenset({ONE}), FULL), GivenUp(FULL)): Left(FULL),
    (Moving(ONE, frozenset()), Arrived(ADOPTED)): Moved(ONE, ADOPTED),
    (Moving(ONE, frozenset()), Refused(FULL)): Waiting(frozenset({ONE}), FULL),
    (Moving(ONE, frozenset()), GivenUp(LATE)): Left(LATE),
    (Moving(OTHER, frozenset({ONE})), Arrived(ADOPTED)): Moved(OTHER, ADOPTED),
    (Moving(OTHER, frozenset({ONE})), Refused(FULL)): Waiting(frozenset({ONE, OTHER}), FULL),
    (Moving(OTHER, frozenset({ONE})), GivenUp(LATE)): Left(LATE),
}
STATES = [*dict.fromkeys(state for state, _ in NEXT), Moved(ONE, ADOPTED), Left(LATE)]
EVENTS = [*dict.fromkeys(event for _, event in NEXT), Assigned(ONE)]


@pytest.mark.parametrize("state", STATES, ids=str)
@pytest.mark.parametrize("event", dict.fromkeys(EVENTS), ids=str)
def test_every_pair_is_a_step_or_raises(state: MoveState, event: MoveEvent) -> None:
    if isinstance(event, GivenUp) and isinstance(state, Waiting | Moving):
        assert advance_move(state, event) == Left(event.reason)
    elif isinstance(event, Assigned) and state == Waiting():
        assert advance_move(state, event) == Moving(event.target, frozenset())
    elif (state, event) in NEXT:
        assert advance_move(state, event) == NEXT[state, event]
    else:
        with pytest.raises(IllegalTransition):
            advance_move(state, event)
