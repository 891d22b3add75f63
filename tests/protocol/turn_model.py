"""One turn as a model that can be searched: a router, a writer (prefill), a reader (decode), a
lossy network, and at most one death of each worker. docs/protocol.md explains it.

The handoff's transitions are the product's own. `sent` only grows: a message in it may arrive at
any time, any number of times, or never, which covers loss, delay, repetition and reordering.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

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
from segue.api.types import PageId, SlotId

UNITS = Units((PageId(0),), SlotId(0))
WHY = "a reason"


@dataclass(frozen=True)
class State:
    sent: frozenset[str] = frozenset()
    router: str = "new"
    """new, waiting for the ticket, prefilling, over."""
    has_answer: bool = False
    reader_died: bool = False
    has_started: bool = False
    reader: ReaderState | None = None
    engine: str = ""
    """Of the reader: empty, running, done."""
    seen: str = "first life"
    """The reader's view of the writer: first life, lost, second life."""
    writer_died: bool = False
    writer: WriterState | None = None
    is_fenced: bool = False
    is_queued: bool = False
    has_written: bool = False

    @property
    def may_write(self) -> bool:
        return not self.writer_died and isinstance(
            self.writer, Shipping | AwaitingWrites | Stopping
        )


@dataclass(frozen=True)
class World:
    """What the environment may do."""

    breaks_prove_death: bool = False
    """A broken connection to a lost writer counts as its death, as if it were refused. Wrong."""

    def next_states(self, s: State) -> Iterator[State]:
        yield from _router(s)
        if not s.reader_died:
            yield from _reader(s)
            yield from self._fencing(s)
        if not s.writer_died:
            yield from _writer(s)
        # A router that hears nothing of a writer tells others that it is lost, even if it lives.
        yield _send(s, "writer lost")

    def _fencing(self, s: State) -> Iterator[State]:
        if not isinstance(s.reader, Quarantined):
            return
        yield _send(s, "fence")
        if "fenced" in s.sent:
            yield _read(s, WriterFenced())
        is_refused = s.writer_died or self.breaks_prove_death
        if is_refused and s.seen == "lost":
            yield _read(s, WriterDied())


def _router(s: State) -> Iterator[State]:
    match s.router:
        case "new":
            yield _send(replace(s, router="waiting"), "start")
        case "waiting" if "reserved" in s.sent:
            yield _send(replace(s, router="prefilling"), "prefill")
        case "prefilling" if "answer" in s.sent:
            yield replace(s, router="over", has_answer=True)
    if s.router != "over":
        # The client leaves, its time is over, or a worker failed.
        yield _send(replace(s, router="over"), "stop", "cancel")


def _reader(s: State) -> Iterator[State]:
    yield replace(s, reader_died=True, reader=None, engine="")
    if "start" in s.sent and not s.has_started:
        yield _send(replace(s, has_started=True, reader=Reserved(UNITS)), "reserved")
    if "writer lost" in s.sent:
        yield replace(s, seen="lost")
    if "writer reborn" in s.sent:
        yield _read(replace(s, seen="second life"), WriterDied())
    if s.reader is not None:
        yield from _handoff(s)
    if s.engine == "running":
        yield _send(replace(s, engine="done"), "answer")
        if s.router == "over":
            yield replace(s, engine="done")


def _handoff(s: State) -> Iterator[State]:
    if isinstance(s.reader, Reserved):
        yield _read(s, Expired())
    if isinstance(s.reader, Reserved | Verifying) and s.router == "over":
        # The stop arrived, or the stream to the router broke.
        yield _read(s, GivenUp(WHY))
    if isinstance(s.reader, Verifying):
        yield replace(_read(s, BytesMatched()), engine="running")
        yield _read(s, BytesDiffered(WHY))
    elif "commit" in s.sent:
        yield _read(s, WriterCommitted())
    if "abort" in s.sent:
        yield _read(s, WriterAborted(WHY))


def _writer(s: State) -> Iterator[State]:
    yield _send(replace(s, writer_died=True, writer=None), "writer reborn")
    if "prefill" in s.sent and s.writer is None and not s.is_fenced:
        yield replace(s, writer=Shipping())
    if "fence" in s.sent:
        if s.writer is None:
            yield _send(replace(s, is_fenced=True), "fenced")
        elif s.may_write:
            yield _write(s, StopAsked(WHY))
        else:
            yield _send(s, "fenced")
    if s.router == "over" and s.may_write:
        yield _write(s, StopAsked(WHY))
    yield from _shipment(s)


def _shipment(s: State) -> Iterator[State]:
    match s.writer:
        case Shipping(num_waiting, is_moving) | AwaitingWrites(num_waiting, is_moving):
            if isinstance(s.writer, Shipping):
                yield (
                    _write(s, AllQueued())
                    if s.is_queued
                    else replace(_write(s, PieceQueued()), is_queued=True)
                )
            if num_waiting and not is_moving:
                yield _write(s, PieceStarted())
            if is_moving:
                yield replace(_write(s, PieceArrived()), has_written=True)
                yield _write(s, PieceFailed(WHY))
        case Stopping():
            yield _write(s, PieceArrived())
        case Shipped():
            yield _send(s, "commit")
        case Failed() | Stopped():
            yield _send(s, "abort")


def _send(s: State, *messages: str) -> State:
    return replace(s, sent=s.sent.union(messages))


def _read(s: State, event: ReaderEvent) -> State:
    return replace(s, reader=None if s.reader is None else advance_reader(s.reader, event))


def _write(s: State, event: WriterEvent) -> State:
    assert s.writer is not None
    return replace(s, writer=advance_writer(s.writer, event))


def wrong_in(s: State) -> str:
    """The invariant that the state breaks; empty if it breaks none."""
    if s.may_write and not s.reader_died and not isinstance(s.reader, Reserved | Quarantined):
        return "memory may be written that is not set aside for it"
    if isinstance(s.reader, Committed) and not s.has_written:
        return "a prompt was taken that has not arrived"
    if s.engine and not isinstance(s.reader, Committed):
        return "an answer without its prompt"
    if s.has_answer and not s.has_written:
        return "a client got an answer without its prompt"
    return ""


def is_at_rest(s: State) -> bool:
    """Nothing is held and nothing goes on."""
    return (
        s.router == "over"
        and isinstance(s.reader, Freed | Committed | None)
        and s.engine != "running"
        and not s.may_write
    )


def reachable(world: World) -> dict[State, list[State]]:
    """All states, each with its next ones."""
    found: dict[State, list[State]] = {}
    to_visit = deque([State()])
    while to_visit:
        state = to_visit.popleft()
        if state not in found:
            found[state] = [after for after in world.next_states(state) if after != state]
            to_visit.extend(found[state])
    return found


def can_rest(found: dict[State, list[State]]) -> set[State]:
    """The states from which some order of events leads to rest."""
    before: dict[State, list[State]] = {}
    for state, following in found.items():
        for after in following:
            before.setdefault(after, []).append(state)
    resting = {state for state in found if is_at_rest(state)}
    to_visit = deque(resting)
    while to_visit:
        for state in before.get(to_visit.popleft(), ()):
            if state not in resting:
                resting.add(state)
                to_visit.append(state)
    return resting
