"""What becomes of a turn's memory when the engine lets go of it, and what its listener hears."""

from __future__ import annotations

import logging

from decode_worker.events import Left
from decode_worker.residency import Residency, with_what_stays
from decode_worker.turn import Turn
from segue.errors import SegueError

logger = logging.getLogger(__name__)


def leave(residency: Residency, turn: Turn, event: Left) -> None:
    """What was computed stays here, unless something went wrong with it."""
    assert turn.own_pages is not None, "the engine has it"
    if event.error is not None:
        # What it computed last may be half written.
        residency.give_back(turn.own_pages, event.sequence.ring.slots)
        turn.tell(event.error)
        return
    residency.keep(turn.spec.session_id, event.sequence, turn.own_pages, turn.hold)
    if event.result is not None:
        turn.tell(with_what_stays(event.result, turn.spec, turn.hold))


def fail(residency: Residency, turn: Turn, error: Exception) -> None:
    """A bug, and one turn's affair: its memory is free, and the others go on."""
    turn_id = turn.spec.turn_id
    logger.error("a turn failed", extra={"turn_id": turn_id}, exc_info=error)
    residency.reclaim(turn_id)
    turn.tell(SegueError(f"turn {turn_id}: {type(error).__name__}: {error}"))
