"""One session's move: every state with every event."""

from __future__ import annotations

import pytest

from router.drain.move import (
    Arrived,
    Assigned,
    LeftBehind,
    MoveAbandoned,
    Moved,
    MoveEvent,
    MoveState,
    Pulling,
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
    (Waiting(), Assigned(ONE)): Pulling(ONE, frozenset()),
    (Waiting(), MoveAbandoned(LATE)): LeftBehind(LATE),
    (Waiting(frozenset({ONE}), FULL), Assigned(OTHER)): Pulling(OTHER, frozenset({ONE})),
    (Waiting(frozenset({ONE}), FULL), MoveAbandoned(FULL)): LeftBehind(FULL),
    (Pulling(ONE, frozenset()), Arrived(ADOPTED)): Moved(ONE, ADOPTED),
    (Pulling(ONE, frozenset()), Refused(FULL)): Waiting(frozenset({ONE}), FULL),
    (Pulling(ONE, frozenset()), MoveAbandoned(LATE)): LeftBehind(LATE),
    (Pulling(OTHER, frozenset({ONE})), Arrived(ADOPTED)): Moved(OTHER, ADOPTED),
    (Pulling(OTHER, frozenset({ONE})), Refused(FULL)): Waiting(frozenset({ONE, OTHER}), FULL),
    (Pulling(OTHER, frozenset({ONE})), MoveAbandoned(LATE)): LeftBehind(LATE),
}
STATES = [*dict.fromkeys(state for state, _ in NEXT), Moved(ONE, ADOPTED), LeftBehind(LATE)]
EVENTS = [*dict.fromkeys(event for _, event in NEXT), Assigned(ONE)]


@pytest.mark.parametrize("state", STATES, ids=str)
@pytest.mark.parametrize("event", dict.fromkeys(EVENTS), ids=str)
def test_every_pair_is_a_step_or_raises(state: MoveState, event: MoveEvent) -> None:
    if isinstance(event, MoveAbandoned) and isinstance(state, Waiting | Pulling):
        assert advance_move(state, event) == LeftBehind(event.reason)
    elif isinstance(event, Assigned) and state == Waiting():
        assert advance_move(state, event) == Pulling(event.target, frozenset())
    elif (state, event) in NEXT:
        assert advance_move(state, event) == NEXT[state, event]
    else:
        with pytest.raises(IllegalTransition):
            advance_move(state, event)
