"""Handoffs under random faults: messages that are late, lost, repeated and reordered, a writer or a
reader that dies and is born again, cancellation at any step.

The reader and its memory are real, and so are the writer's transitions. The network is a bag of
messages, from which any message may be taken at any time, or twice, or never.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kv_transfer.reading.reader import HandoffReader
from kv_transfer.reading.reservations import Reservation
from kv_transfer.ticket import Arrival, Fence, PeerIdentity, TicketId
from kv_transfer.transport.cache_memory import HostMemory, checksums_of
from kv_transfer.transport.loopback import LoopbackNetwork
from kv_transfer.writing.shipment import (
    AllQueued,
    PieceArrived,
    PieceFailed,
    PieceQueued,
    PieceStarted,
    Shipped,
    StopAsked,
    WriterEvent,
    advance_writer,
)
from segue.api.errors import Cancelled, Overloaded, SegueError
from segue.api.types import Epoch, TurnId, WorkerId
from segue.cache.unit_pool import UnitState
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


class HandoffMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
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
        self.start_reader()

    def start_reader(self) -> None:
        self.reader_epoch += 1
        self.node = Node(self.network, "decode-0", self.reader_epoch, 12, LAYOUT)
        self.reader = HandoffReader(
            pages=self.node.pages,
            slots=self.node.slots,
            memory_map=self.node.memory_map,
            address="here:1",
            clock=self.clock,
        )
        self.reservations: dict[TurnId, Reservation] = {}
        self.taken: dict[TurnId, Arrival] = {}
        self.seen = {}
        self.tell_members()

    def tell_members(self) -> None:
        alive = [(WRITER, Epoch(self.writer_epoch))] if self.is_writer_alive else []
        self.messages.append(View(tuple(alive)))

    # The reader's worker.

    @precondition(lambda self: self.seen)
    @rule()
    def reserve(self) -> None:
        self.num_turns += 1
        turn_id = TurnId(f"turn-{self.num_turns}")
        with contextlib.suppress(Overloaded):
            self.reservations[turn_id] = self.reader.reserve(
                turn_id,
                num_prompt_tokens=10,
                extra_tokens=5,
                writer=PeerIdentity(worker_id=WRITER, epoch=self.seen[WRITER], address="there:1"),
                lifetime_s=LIFETIME_S,
            )

    @precondition(lambda self: self.is_writer_alive)
    @rule(num_steps=st.integers(1, 4), is_intact=st.booleans())
    def hand_off(self, num_steps: int, is_intact: bool) -> None:
        """Goes undisturbed up to one of its steps."""
        self.tell_members()
        self.receive(self.messages.pop())
        self.reserve()
        if (reservation := self.reservations.get(TurnId(f"turn-{self.num_turns}"))) is None:
            return
        ticket = reservation.ticket
        writing = self.used[ticket.ticket_id] = Writing(ticket, reservation.writer)
        if num_steps > 1:
            for event in (PieceQueued(), PieceStarted(), AllQueued(), PieceArrived()):
                self.step(writing, event, is_intact=is_intact)
        if num_steps > 2:
            self.receive(self.messages.pop())
        if num_steps > 3:
            self.verify()

    @precondition(lambda self: self.reservations)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """Its turn ended, or was cancelled."""
        turn_id = data.draw(st.sampled_from(sorted(self.reservations)))
        self.reservations.pop(turn_id).give_up(Cancelled("on command"))

    @rule()
    def take_arrivals(self) -> None:
        for turn_id, reservation in list(self.reservations.items()):
            if reservation.untaken is not None:
                self.taken[turn_id] = self.loop.run_until_complete(reservation.arrived())
                del self.reservations[turn_id]

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def finish_turn(self, data: st.DataObject) -> None:
        self.give_back(self.taken.pop(data.draw(st.sampled_from(sorted(self.taken)))))

    def give_back(self, arrival: Arrival) -> None:
        self.node.pages.give_back(arrival.pages, UnitState.WORKING)
        self.node.slots.give_back([arrival.slot], UnitState.WORKING)

    @rule(seconds=st.sampled_from([1.0, LIFETIME_S]))
    def expire(self, seconds: float) -> None:
        self.clock.now += seconds
        self.reader.expire_due()

    @rule()
    def ask_to_stop(self) -> None:
        self.messages += [f for f in self.reader.fence_pending() if f not in self.messages]

    @rule()
    def verify(self) -> None:
        """Lets all checksums be computed."""
        self.pass_time(2 * VERIFYING_S)

    @precondition(lambda self: self.committing)
    @rule()
    def cancel_commits(self) -> None:
        """Their connection breaks."""
        for task in self.committing:
            task.cancel()
        self.pass_time(0.0)

    @rule()
    def restart_reader(self) -> None:
        self.cancel_commits()
        self.start_reader()

    # The writer's worker.

    @precondition(lambda self: self.is_writer_alive and self.reservations)
    @rule(data=st.data())
    def start_writing(self, data: st.DataObject) -> None:
        """A turn with its ticket arrives, maybe again."""
        turn_id = data.draw(st.sampled_from(sorted(self.reservations)))
        reservation = self.reservations[turn_id]
        ticket = reservation.ticket
        if ticket.ticket_id not in self.used and reservation.writer.epoch == self.writer_epoch:
            self.used[ticket.ticket_id] = Writing(ticket, reservation.writer)

    @precondition(lambda self: self.open_writings())
    @rule(
        data=st.data(),
        event=st.sampled_from(
            [
                PieceQueued(),
                PieceStarted(),
                PieceArrived(),
                PieceArrived(),
                PieceFailed("on command"),
                AllQueued(),
                StopAsked("on command"),
            ]
        ),
    )
    def write(self, data: st.DataObject, event: WriterEvent) -> None:
        writing = data.draw(st.sampled_from(self.open_writings()))
        if writing.may_take(event):
            self.step(writing, event)

    @precondition(lambda self: self.open_writings())
    @rule(data=st.data(), is_intact=st.booleans())
    def write_all(self, data: st.DataObject, is_intact: bool) -> None:
        writing = data.draw(st.sampled_from(self.open_writings()))
        events = (PieceArrived(), PieceQueued(), PieceStarted(), AllQueued(), PieceArrived())
        for event in events:
            if writing.may_take(event) and not writing.is_over:
                self.step(writing, event, is_intact=is_intact)

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

    @precondition(lambda self: self.is_writer_alive)
    @rule()
    def end_writer(self) -> None:
        """With its process, its writes end; what it has sent may still arrive."""
        self.used.clear()
        self.is_writer_alive = False
        self.tell_members()

    @precondition(lambda self: not self.is_writer_alive)
    @rule()
    def start_writer(self) -> None:
        self.is_writer_alive = True
        self.writer_epoch += 1
        self.tell_members()

    # The network.

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), stays=st.booleans())
    def deliver(self, data: st.DataObject, stays: bool) -> None:
        """`stays`: it will arrive once more."""
        index = data.draw(st.integers(0, len(self.messages) - 1))
        self.receive(self.messages[index] if stays else self.messages.pop(index))

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.messages.pop(data.draw(st.integers(0, len(self.messages) - 1)))

    def receive(self, message: Message) -> None:
        match message:
            case Commit():
                task = self.loop.create_task(self.commit(message))
                self.committing.add(task)
                task.add_done_callback(self.committing.discard)
                self.pass_time(0.0)
            case Abort(ticket):
                with contextlib.suppress(SegueError):
                    self.reader.abort(ticket.ticket_id, ticket.reader.epoch, "on command")
            case Fence():
                self.fence(message)
            case Fenced(ticket_id):
                self.reader.fenced(ticket_id)
            case Refused(ticket_id):
                self.reader.writer_unreachable(ticket_id)
            case View(alive):
                self.seen = dict(alive)
                self.reader.members_changed(self.seen)

    async def commit(self, message: Commit) -> None:
        ticket = message.ticket
        node = self.node
        sent: Mapping[str, int] = {}
        if message.is_intact and ticket.reader.epoch == self.reader_epoch:
            sent = checksums_of(
                node.memory_map, ticket.page_ids, ticket.slot_id, HostMemory().crc32
            )
        with contextlib.suppress(SegueError):
            await self.reader.commit(ticket.ticket_id, ticket.reader.epoch, sent)

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

    def pass_time(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    # What always holds.

    @invariant()
    def memory_adds_up_and_has_an_owner(self) -> None:
        owners = {*self.reader.owners(), *self.taken}
        for pool in (self.node.pages, self.node.slots):
            pool.check_invariants()
            held = set(pool.owners())
            # An arrival that nobody has taken yet belongs to its reservation.
            held -= {t for t, r in self.reservations.items() if r.untaken is not None}
            assert held <= owners, held - owners

    @invariant()
    def what_may_be_written_is_set_aside_for_its_turn(self) -> None:
        allowed = (UnitState.RESERVED, UnitState.QUARANTINED)
        for writing in self.open_writings():
            ticket = writing.ticket
            if ticket.reader.epoch != self.reader_epoch:
                continue  # That memory is gone with its process.
            states = [self.node.pages.state_of(page) for page in ticket.page_ids]
            states.append(self.node.slots.state_of(ticket.slot_id))
            assert all(state in allowed for state in states), states
            owners = {self.node.pages._owners[page] for page in ticket.page_ids}
            assert owners == {ticket.turn_id}

    @invariant()
    def only_complete_prompts_arrive(self) -> None:
        for reservation in self.reservations.values():
            if reservation.untaken is not None:
                assert reservation.ticket.ticket_id in self.complete

    def teardown(self) -> None:
        """When all messages arrive at last, nothing is held any more."""
        self.verify()
        for reservation in self.reservations.values():
            reservation.give_up(Cancelled("the test ends"))
        if not self.is_writer_alive:
            self.start_writer()
        self.tell_members()
        self.receive(self.messages.pop())
        for _ in range(4):
            for writing in self.open_writings():
                self.step(writing, StopAsked("the test ends"))
                if writing.may_take(PieceArrived()):
                    self.step(writing, PieceArrived())
            self.ask_to_stop()
            messages, self.messages = self.messages, []
            for message in messages:
                if not isinstance(message, View):
                    self.receive(message)
            self.verify()
        for arrival in self.taken.values():
            self.give_back(arrival)
        assert self.node.pages.counts().free == self.node.pages.total
        assert self.node.slots.counts().free == self.node.slots.total
        assert self.reader.owners() == set()
        self.loop.close()


HandoffMachine.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestHandoffs = HandoffMachine.TestCase
