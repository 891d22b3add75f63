from __future__ import annotations

import itertools

import pytest

from kv_transfer.handoff import (
    BytesDiffered,
    BytesMatched,
    Committed,
    Expired,
    Freed,
    GivenUp,
    Quarantined,
    ReaderEvent,
    ReaderState,
    Reserved,
    Units,
    Verifying,
    WriterAborted,
    WriterCommitted,
    WriterDied,
    WriterFenced,
    advance_reader,
)
from segue.api.errors import IllegalTransition
from segue.api.types import PageId, SlotId

UNITS = Units((PageId(3), PageId(4)), SlotId(1))

RESERVED = Reserved(UNITS)
VERIFYING = Verifying(UNITS)
QUARANTINED = Quarantined(UNITS, "released")
COMMITTED = Committed()
FREED = Freed("released")

COMMIT = WriterCommitted()
ABORT = WriterAborted("out of memory")
MATCH = BytesMatched()
DIFFER = BytesDiffered("kv differs")
GIVE_UP = GivenUp("cancelled")
EXPIRE = Expired()
FENCE = WriterFenced()
DEATH = WriterDied()

STATES: tuple[ReaderState, ...] = (RESERVED, VERIFYING, QUARANTINED, COMMITTED, FREED)
EVENTS: tuple[ReaderEvent, ...] = (
    COMMIT,
    ABORT,
    MATCH,
    DIFFER,
    GIVE_UP,
    EXPIRE,
    FENCE,
    DEATH,
)

TABLE: dict[tuple[ReaderState, ReaderEvent], ReaderState] = {
    (RESERVED, COMMIT): VERIFYING,
    (RESERVED, ABORT): Freed("out of memory"),
    (RESERVED, DEATH): Freed("the writer died"),
    (RESERVED, GIVE_UP): Quarantined(UNITS, "cancelled"),
    (RESERVED, EXPIRE): Quarantined(UNITS, "the ticket expired"),
    (VERIFYING, MATCH): COMMITTED,
    (VERIFYING, DIFFER): Freed("kv differs"),
    (VERIFYING, GIVE_UP): Freed("cancelled"),
    (VERIFYING, ABORT): Freed("out of memory"),
    (VERIFYING, EXPIRE): VERIFYING,
    (VERIFYING, DEATH): VERIFYING,
    (QUARANTINED, COMMIT): FREED,
    (QUARANTINED, ABORT): FREED,
    (QUARANTINED, FENCE): FREED,
    (QUARANTINED, DEATH): FREED,
    (QUARANTINED, GIVE_UP): QUARANTINED,
    (QUARANTINED, EXPIRE): QUARANTINED,
    **{(COMMITTED, event): COMMITTED for event in EVENTS},
    **{(FREED, event): FREED for event in EVENTS},
}


@pytest.mark.parametrize(("state", "event"), TABLE, ids=repr)
def test_each_event_leads_to_the_state_in_the_table(state: ReaderState, event: ReaderEvent) -> None:
    assert advance_reader(state, event) == TABLE[state, event]


@pytest.mark.parametrize(
    ("state", "event"),
    [pair for pair in itertools.product(STATES, EVENTS) if pair not in TABLE],
    ids=repr,
)
def test_every_other_pair_raises(state: ReaderState, event: ReaderEvent) -> None:
    with pytest.raises(IllegalTransition):
        advance_reader(state, event)


@pytest.mark.parametrize("late", [MATCH, DIFFER, COMMIT], ids=repr)
def test_a_late_commit_does_not_revive_a_given_up_handoff(late: ReaderEvent) -> None:
    state = advance_reader(advance_reader(RESERVED, GIVE_UP), COMMIT)

    assert isinstance(advance_reader(state, late), Freed)


def test_time_alone_never_frees_units_that_a_writer_may_still_write() -> None:
    state: ReaderState = RESERVED

    for event in (EXPIRE, EXPIRE, GIVE_UP, EXPIRE):
        state = advance_reader(state, event)

    assert isinstance(state, Quarantined)
