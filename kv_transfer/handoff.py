"""The states of one handoff on the reader's side; `shipment` has the writer's side.

    Reserved ──WriterCommitted──▶ Verifying ──BytesMatched──▶ Committed
       │ │ └──WriterAborted, WriterDied──┐ └──BytesDiffered, GivenUp, WriterAborted──┐
       │ │                               └────────────────────────────────────────── ▶ Freed
       └─┴──GivenUp, Expired──▶ Quarantined ──any news that the writer has stopped───────▲

A page that a remote worker may still write is not free. Only a message from the writer, or its
death, ends a quarantine; time never does. Final states ignore late messages, so a late success
cannot revive a handoff that was given up. All other transitions raise IllegalTransition.

Pure: no clock, no I/O. Time arrives as an event.
"""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.errors import IllegalTransition
from segue.api.types import PageId, SlotId


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a reservation: the pages of prompt and answer, and one slot."""

    pages: tuple[PageId, ...]
    slot: SlotId


@dataclass(frozen=True, slots=True)
class Reserved:
    """The writer may write the units."""

    units: Units


@dataclass(frozen=True, slots=True)
class Verifying:
    """The writer has committed; the reader compares checksums."""

    units: Units


@dataclass(frozen=True, slots=True)
class Quarantined:
    """The reader has given up, but the writer may still write."""

    units: Units
    reason: str


@dataclass(frozen=True, slots=True)
class Committed:
    """Final. The receiver owns the units."""


@dataclass(frozen=True, slots=True)
class Freed:
    """Final. The units are free again."""

    reason: str


ReaderState = Reserved | Verifying | Quarantined | Committed | Freed


@dataclass(frozen=True, slots=True)
class WriterCommitted:
    """The writer reports that every byte has arrived. It will not write again."""


@dataclass(frozen=True, slots=True)
class WriterAborted:
    """The writer reports that it has stopped."""

    reason: str


@dataclass(frozen=True, slots=True)
class BytesMatched:
    pass


@dataclass(frozen=True, slots=True)
class BytesDiffered:
    reason: str


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The turn is no longer wanted here."""

    reason: str


@dataclass(frozen=True, slots=True)
class Expired:
    pass


@dataclass(frozen=True, slots=True)
class WriterFenced:
    """The writer answered a fence: no write is in flight and none will start."""


@dataclass(frozen=True, slots=True)
class WriterDied:
    """The writer's process has ended, and its connections are closed."""


ReaderEvent = (
    WriterCommitted
    | WriterAborted
    | BytesMatched
    | BytesDiffered
    | GivenUp
    | Expired
    | WriterFenced
    | WriterDied
)


def advance_reader(state: ReaderState, event: ReaderEvent) -> ReaderState:
    match state:
        case Reserved():
            return _from_reserved(state, event)
        case Verifying():
            return _from_verifying(state, event)
        case Quarantined():
            return _from_quarantined(state, event)
        case Committed() | Freed():
            return state


def _from_reserved(state: Reserved, event: ReaderEvent) -> ReaderState:
    match event:
        case WriterCommitted():
            return Verifying(state.units)
        case WriterAborted(reason):
            return Freed(reason)
        case WriterDied():
            return Freed("the writer died")
        case GivenUp(reason):
            return Quarantined(state.units, reason)
        case Expired():
            return Quarantined(state.units, "the ticket expired")
        case _:
            raise _illegal(state, event)


def _from_verifying(state: Verifying, event: ReaderEvent) -> ReaderState:
    match event:
        case BytesMatched():
            return Committed()
        case BytesDiffered(reason) | GivenUp(reason) | WriterAborted(reason):
            return Freed(reason)
        case Expired() | WriterDied():
            # All bytes have arrived, and in time.
            return state
        case _:
            raise _illegal(state, event)


def _from_quarantined(state: Quarantined, event: ReaderEvent) -> ReaderState:
    match event:
        case WriterCommitted() | WriterAborted() | WriterFenced() | WriterDied():
            return Freed(state.reason)
        case GivenUp() | Expired():
            return state
        case _:
            raise _illegal(state, event)


def _illegal(state: object, event: object) -> IllegalTransition:
    return IllegalTransition(f"{state} cannot take {event}")
