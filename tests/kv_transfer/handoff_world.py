"""A reader of handoffs whose messages arrive late, twice or never, and its writer.

The reader and its memory are real, and so are the writer's transitions. The network is a bag of
messages, from which any message may be taken at any time, or twice, or never.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from kv_transfer.handoff import Quarantined, ReaderState, Reserved, Verifying
from kv_transfer.reading.reader import HandoffReader
from kv_transfer.reading.reservations import Reservation
from kv_transfer.ticket import Arrival, Fence, TicketId
from kv_transfer.transport.cache_memory import checksums_of
from kv_transfer.transport.loopback import LoopbackNetwork
from kv_transfer.writing.shipment import (
    PieceArrived,
    Shipped,
    StopAsked,
    WriterEvent,
    advance_writer,
)
from segue.api.errors import Cancelled, NotFound, StaleEpoch, TransferFailed
from segue.api.types import Epoch, TurnId, WorkerId
from segue.cache.memory import UnitPools
from tests.kv_transfer.handoff_messages import (
    Abort,
    Commit,
    Fenced,
    Message,
    Refused,
    View,
    Writing,
)
from tests.kv_transfer.world import LAYOUT, Clock, Node
from tests.virtual.clock import VirtualLoop

WRITER = WorkerId("prefill-0")
LIFETIME_S = 30.0
VERIFYING_S = 1.0


class HandoffWorld:
    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.loop.thread_s = lambda: VERIFYING_S
        self.clock = Clock()
        self.network = LoopbackNetwork()
        self.writer_epoch, self.reader_epoch, self.num_turns = 1, 0, 0
        self.is_writer_alive = True
        # The reader's last view of the members.
        self.seen: dict[WorkerId, Epoch] = {}
        self.used: dict[TicketId, Writing | None] = {}
        """By the living writer; None for a ticket that was fenced before its use."""
        self.messages: list[Message] = []
        self.committing: set[asyncio.Task[None]] = set()
        self.complete: set[TicketId] = set()
        """All their bytes have arrived."""
        self.wrongs: list[BaseException] = []
        self.accepted: set[TicketId] = set()
        self.given_up: set[TurnId] = set()
        self.start_reader()

    def start_reader(self) -> None:
        self.reader_epoch += 1
        self.node = Node(self.network, "decode-0", self.reader_epoch, 12, LAYOUT)
        self.pools = UnitPools(pages=self.node.pages, slots=self.node.slots)
        self.reader = HandoffReader(
            pools=self.pools,
            memory_map=self.node.memory_map,
            address="here:1",
            freed=self.on_freed,
            clock=self.clock,
        )
        self.every: dict[TicketId, Reservation] = {}
        """All reservations of this life of the reader, in any state."""
        self.was_freed = False
        self.num_free = self.node.pages.total
        self.reservations: dict[TurnId, Reservation] = {}
        self.taken: dict[TurnId, Arrival] = {}
        self.seen = {}
        self.tell_members()

    def on_freed(self) -> None:
        self.was_freed = True

    def tell_members(self) -> None:
        alive = [(WRITER, Epoch(self.writer_epoch))] if self.is_writer_alive else []
        self.messages.append(View(tuple(alive)))

    def step(self, writing: Writing, event: WriterEvent, *, is_intact: bool = True) -> None:
        writing.state = advance_writer(writing.state, event)
        if not writing.is_over:
            return
        ticket = writing.ticket
        if isinstance(writing.state, Shipped):
            if is_intact:
                self.complete.add(ticket.ticket_id)
            self.messages.append(Commit(ticket, is_intact))
        else:
            self.messages.append(Abort(ticket))
        self.messages += [Fenced(fence.ticket_id) for fence in writing.fences]

    def open_writings(self) -> list[Writing]:
        return [one for one in self.used.values() if one is not None and not one.is_over]

    def give_back(self, arrival: Arrival) -> None:
        self.pools.give_back(arrival.pages, [arrival.slot])
        self.num_free += len(arrival.pages)

    def state_of(self, ticket_id: TicketId) -> ReaderState | None:
        found = self.every.get(ticket_id)
        return found.state if found else None

    def receive(self, message: Message) -> None:
        match message:
            case Commit():
                task = self.loop.create_task(self.commit(message))
                self.committing.add(task)
                task.add_done_callback(self.committed)
                self.pass_time(0.0)
            case Abort(ticket):
                with contextlib.suppress(StaleEpoch):
                    self.reader.abort(ticket.ticket_id, ticket.reader.epoch, "on command")
                assert not self.is_held(ticket.ticket_id), "its writer has stopped"
            case Fence():
                self.fence(message)
            case Fenced(ticket_id):
                self.reader.fenced(ticket_id)
                assert not self.is_held(ticket_id), "its writer has stopped"
            case Refused(ticket_id):
                before = self.state_of(ticket_id)
                self.reader.writer_unreachable(ticket_id)
                one = self.every.get(ticket_id)
                if one is None or self.seen.get(WRITER) == one.writer.epoch:
                    assert self.state_of(ticket_id) == before, "a member may still write"
                else:
                    assert not isinstance(self.state_of(ticket_id), Quarantined), "it is dead"
            case View(alive):
                self.seen = dict(alive)
                self.reader.members_changed(self.seen)
                for one in self.every.values():
                    if isinstance(one.state, Reserved | Quarantined) and WRITER in self.seen:
                        assert one.writer.epoch >= self.seen[WRITER], "that life has ended"

    def is_held(self, ticket_id: TicketId) -> bool:
        return isinstance(self.state_of(ticket_id), Reserved | Verifying | Quarantined)

    async def commit(self, message: Commit) -> None:
        ticket = message.ticket
        node = self.node
        sent: Mapping[str, int] = {}
        if message.is_intact and ticket.reader.epoch == self.reader_epoch:
            sent = checksums_of(node.memory_map, ticket.page_ids, ticket.slot_id)
        reservation = self.every.get(ticket.ticket_id)
        is_due = (
            message.is_intact
            and reservation is not None
            and isinstance(reservation.state, Reserved)
            and self.clock.now < reservation.expires_at
        )
        was_in_time = reservation is not None and self.clock.now < reservation.expires_at
        try:
            await self.reader.commit(ticket.ticket_id, ticket.reader.epoch, sent)
        except TransferFailed:
            assert not message.is_intact, "its bytes are those that were sent"
        except StaleEpoch:
            assert ticket.reader.epoch != node.memory_map.epoch
        except NotFound:
            assert not is_due or ticket.turn_id in self.given_up, "nothing prevents it"
        else:
            assert message.is_intact
            assert was_in_time
            assert ticket.reader.epoch == node.memory_map.epoch
            assert ticket.ticket_id not in self.accepted, "once is enough"
            assert ticket.turn_id not in self.given_up
            self.accepted.add(ticket.ticket_id)

    def fence(self, fence: Fence) -> None:
        """Arrives at its address, which belongs to one life of the writer."""
        if fence.writer.epoch != self.writer_epoch or not self.is_writer_alive:
            self.messages.append(Refused(fence.ticket_id))
            return
        writing = self.used.setdefault(fence.ticket_id, None)
        if writing is None or writing.is_over:
            self.messages.append(Fenced(fence.ticket_id))
            return
        writing.fences.append(fence)
        self.step(writing, StopAsked("fenced"))

    def committed(self, task: asyncio.Task[None]) -> None:
        self.committing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.wrongs.append(error)

    def pass_time(self, seconds: float) -> None:
        """Raises what a commit has found wrong."""
        self.loop.run_until_complete(asyncio.sleep(seconds))
        for wrong in self.wrongs:
            raise wrong

    def compute_checksums(self) -> None:
        self.pass_time(2 * VERIFYING_S)

    def send_fences(self) -> None:
        self.messages += [f for f in self.reader.fence_pending() if f not in self.messages]

    def restart_writer(self) -> None:
        """The writer's next life."""
        self.is_writer_alive = True
        self.writer_epoch += 1
        self.tell_members()

    def come_to_rest(self) -> None:
        """All turns end and all messages arrive. Then no unit is held."""
        self.compute_checksums()
        for reservation in self.reservations.values():
            reservation.give_up(Cancelled("the test ends"))
        if not self.is_writer_alive:
            self.restart_writer()
        self.tell_members()
        self.receive(self.messages.pop())
        for _ in range(4):
            for writing in self.open_writings():
                self.step(writing, StopAsked("the test ends"))
                if writing.may_take(PieceArrived()):
                    self.step(writing, PieceArrived())
            self.send_fences()
            messages, self.messages = self.messages, []
            for message in messages:
                if not isinstance(message, View):
                    self.receive(message)
            self.compute_checksums()
        for arrival in self.taken.values():
            self.give_back(arrival)
