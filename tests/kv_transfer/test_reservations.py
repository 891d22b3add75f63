"""The cost and the memory of tickets do not grow with the number of earlier ones."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kv_transfer.handoff import Committed, Freed, Quarantined, Reserved, Units
from kv_transfer.reading.reader import HandoffReader
from kv_transfer.reading.reservations import MAX_ENDED, Reservation, TicketBook
from kv_transfer.ticket import PeerIdentity, Ticket, TicketId
from segue.api.errors import NotFound
from segue.api.types import Epoch, SlotId, TurnId, WorkerId
from tests.executed import lines_executed
from tests.kv_transfer.world import Clock, Node, World

READER = PeerIdentity(worker_id=WorkerId("decode-0"), epoch=Epoch(1), address="here:1")
WRITER = PeerIdentity(worker_id=WorkerId("prefill-0"), epoch=Epoch(1), address="here:2")
UNITS = Units((), SlotId(0))


def ticket(book: TicketBook, turn: str = "turn") -> Ticket:
    return Ticket(
        ticket_id=book.new_ticket_id(),
        turn_id=TurnId(turn),
        reader=READER,
        resident_tokens=0,
        page_ids=(),
        slot_id=SlotId(0),
        expires_in_s=10.0,
    )


def reserve(
    book: TicketBook, *, turn: str = "turn", until: float = 10.0, writer: PeerIdentity = WRITER
) -> Reservation:
    handoff = Reservation(
        ticket(book, turn),
        Reserved(UNITS),
        writer=writer,
        expires_at=until,
        give_up=lambda reservation, error: None,
    )
    book.add(handoff)
    return handoff


@pytest.fixture
def book() -> TicketBook:
    return TicketBook(READER)


def test_the_next_to_expire_is_known_in_any_order_of_arrival(book: TicketBook) -> None:
    late, soon, middle = (reserve(book, turn=str(at), until=at) for at in (30.0, 10.0, 20.0))
    assert book.next_expiry() == 10.0

    book.enter(soon, Committed())

    assert book.next_expiry() == 20.0
    assert list(book.due(25.0)) == [middle]
    assert list(book.due(25.0)) == []
    assert list(book.due(30.0)) == [late]


def test_a_turn_is_found_while_it_is_wanted(book: TicketBook) -> None:
    first = reserve(book)
    book.enter(first, Quarantined(UNITS, "released"))
    assert book.live(TurnId("turn")) is None

    second = reserve(book)
    book.enter(first, Freed("released"))

    assert book.live(TurnId("turn")) is second


def test_handoffs_are_listed_until_they_end(book: TicketBook) -> None:
    other = replace(WRITER, worker_id=WorkerId("prefill-1"))
    mine, theirs = reserve(book, turn="a"), reserve(book, turn="b", writer=other)
    ended = reserve(book, turn="c")
    book.enter(ended, Committed())

    assert [one for one in book.handoffs() if one.writer == WRITER] == [mine]
    assert book.handoffs() == [mine, theirs]


def test_little_is_remembered_of_ended_tickets(book: TicketBook) -> None:
    last = [reserve(book, turn=str(n), until=1e9) for n in range(MAX_ENDED + 500)]
    for handoff in last:
        book.enter(handoff, Committed())

    assert len(book) == 0
    assert len(book._ended) == MAX_ENDED
    assert len(book._expiries) <= len(last)
    reserve(book)
    assert len(book._expiries) == 1
    with pytest.raises(NotFound, match="has been used"):
        book.find(last[-1].ticket.ticket_id, Epoch(1))
    with pytest.raises(NotFound, match="is not known"):
        book.find(last[0].ticket.ticket_id, Epoch(1))


def test_a_ticket_cannot_be_guessed_from_earlier_ones(book: TicketBook) -> None:
    ids = [book.new_ticket_id() for _ in range(100)]

    secrets = {ticket_id.rsplit("-", 1)[1] for ticket_id in ids}
    assert len(secrets) == 100
    assert all(len(bytes.fromhex(secret)) == 16 for secret in secrets)
    assert ids[0].startswith("decode-0-1-")


class Busy:
    """A reader that has served this many turns."""

    def __init__(self, world: World, num_past: int) -> None:
        self.node: Node = world.node("decode-0")
        self.prefill: Node = world.node("prefill-0")
        self.world = world
        self.reader: HandoffReader = world.reader(self.node, clock=Clock())
        for _ in range(num_past):
            ticket = self.reserve()
            self.reader.abort(ticket.ticket_id, Epoch(1), "stopped")

    def reserve(self, turn: str = "") -> Ticket:
        return self.world.reserve(self.reader, self.prefill, turn=turn)


@pytest.mark.parametrize("what", ["reserve", "abort", "give up", "expiry", "fences", "members"])
def test_a_turns_cost_does_not_depend_on_the_turns_before_it(world: World, what: str) -> None:
    def cost(num_past: int) -> int:
        busy = Busy(world, num_past)
        reader = busy.reader
        if what == "reserve":
            return lines_executed(lambda: busy.reserve("now"))
        ticket = busy.reserve("now")
        calls = {
            "abort": lambda: reader.abort(ticket.ticket_id, Epoch(1), "stopped"),
            "give up": lambda: world.give_up("now", "released"),
            "expiry": reader.expire_due,
            "fences": reader.fence_pending,
            "members": lambda: reader.members_changed({WorkerId("prefill-0"): Epoch(1)}),
        }
        return lines_executed(calls[what])

    few, many = cost(30), cost(3000)

    # A heap is one or two levels deeper.
    assert many <= few + 5, (few, many)


def test_a_commit_costs_the_same_after_many_turns(world: World) -> None:
    def cost(num_past: int) -> int:
        busy = Busy(world, num_past)
        ticket = busy.reserve("now")
        loop = asyncio.new_event_loop()

        def commit() -> None:
            sums: dict[str, int] = {}
            with pytest.raises(Exception, match="sent nothing"):
                loop.run_until_complete(busy.reader.commit(ticket.ticket_id, Epoch(1), sums))

        try:
            commit_lines = lines_executed(commit)
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
        return commit_lines

    few, many = cost(30), cost(3000)

    assert many <= few * 1.2, (few, many)


def test_a_message_for_a_forgotten_ticket_is_late(book: TicketBook) -> None:
    assert book.get(TicketId("never")) is None
