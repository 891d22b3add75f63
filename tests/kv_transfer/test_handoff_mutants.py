"""The reader of handoffs, broken in many ways: its state machine finds each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from kv_transfer import handoff
from kv_transfer.handoff import (
    BytesMatched,
    Expired,
    Freed,
    GivenUp,
    Quarantined,
    ReaderEvent,
    ReaderState,
    Reserved,
    Verifying,
    WriterAborted,
    WriterCommitted,
    WriterDied,
    WriterFenced,
)
from kv_transfer.reading import reader, reservations
from kv_transfer.reading.reader import HandoffReader
from kv_transfer.reading.reservations import Reservation, TicketBook
from segue.cache.memory import UnitPools
from tests.kv_transfer.test_handoff_machine import HandoffMachine

pytestmark = pytest.mark.slow


def step(
    state: type[ReaderState], event: type[ReaderEvent], to: Callable[[Any], ReaderState]
) -> tuple[object, str, object]:
    """One transition that goes elsewhere."""
    right = handoff.advance_reader

    def wrong(before: ReaderState, what: ReaderEvent) -> ReaderState:
        is_it = isinstance(before, state) and isinstance(what, event)
        return to(before) if is_it else right(before, what)

    return reader, "advance_reader", wrong


def freed(before: ReaderState) -> ReaderState:
    return Freed("too early")


def same(before: ReaderState) -> ReaderState:
    return before


def members_changed(is_dead: Callable[[int, int], bool]) -> tuple[object, str, object]:
    def wrong(self: HandoffReader, alive: Any) -> None:
        self._members = dict(alive)
        for one in self._book.handoffs():
            now = alive.get(one.writer.worker_id)
            if now is not None and is_dead(now, one.writer.epoch):
                self._step(one, WriterDied())

    return HandoffReader, "members_changed", wrong


def unreachable(self: HandoffReader, ticket_id: Any) -> None:
    if (found := self._book.get(ticket_id)) is not None:
        self._step(found, WriterDied())


def follow(skipped: tuple[type, type]) -> tuple[object, str, object]:
    right = reservations.follow

    def wrong(pools: UnitPools, before: Any, after: Any) -> None:
        if (type(before), type(after)) != skipped:
            right(pools, before, after)

    return reader, "follow", wrong


def give_up_without_units(self: HandoffReader, reservation: Reservation, error: Any) -> None:
    if reservation.untaken is not None:
        reservation.end(error)
    elif not isinstance(reservation.state, handoff.Committed):
        self._step(reservation, GivenUp(str(error)), error)


def nothing(self: object, *_: object) -> None:
    pass


async def never_different(self: HandoffReader, ticket: Any, writer: Any, sent: Any) -> str:
    return ""


async def always_different(self: HandoffReader, ticket: Any, writer: Any, sent: Any) -> str:
    return "different"


def end_only_arrivals(self: Reservation, end: Any) -> None:
    if not isinstance(end, Exception):
        self._end = end
        self._has_ended.set()


MUTANTS: dict[str, tuple[object, str, object]] = {
    "a reservation that is given up is free at once": step(Reserved, GivenUp, freed),
    "an expired ticket's units are free at once": step(Reserved, Expired, freed),
    "an abort is ignored": step(Reserved, WriterAborted, same),
    "a late commit does not end a quarantine": step(Quarantined, WriterCommitted, same),
    "a late abort does not end a quarantine": step(Quarantined, WriterAborted, same),
    "an answered fence does not end a quarantine": step(Quarantined, WriterFenced, same),
    "a death does not end a reservation": step(Reserved, WriterDied, same),
    "a stop during the checksums is ignored": step(Verifying, GivenUp, same),
    "matching bytes lose the handoff": step(Verifying, BytesMatched, freed),
    "a living writer counts as dead": members_changed(lambda now, then: now >= then),
    "a dead writer is never noticed": members_changed(lambda now, then: False),
    "a refused connection proves the death of a member": (
        HandoffReader,
        "writer_unreachable",
        unreachable,
    ),
    "a refused connection proves nothing": (HandoffReader, "writer_unreachable", nothing),
    "tickets do not expire": (HandoffReader, "expire_due", nothing),
    "checksums are not compared": (HandoffReader, "_problem", never_different),
    "all checksums differ": (HandoffReader, "_problem", always_different),
    "what arrived stays reserved": follow((Verifying, handoff.Committed)),
    "what was fenced stays in quarantine": follow((Quarantined, Freed)),
    "an untaken arrival is not freed": (HandoffReader, "_give_up", give_up_without_units),
    "a loss ends no wait": (Reservation, "end", end_only_arrivals),
    "no fence is sent": (TicketBook, "quarantined", lambda self: []),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_machine_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, wrong = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, wrong)
    first = settings(
        max_examples=300,
        stateful_step_count=40,
        # The smallest example takes long to find, and is not wanted here.
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(Exception) as found:  # noqa: PT011  # which one depends on the mutant
        run_state_machine_as_test(HandoffMachine, settings=first)
    assert not isinstance(found.value, TypeError | AttributeError), found.value
