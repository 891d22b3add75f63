"""Handoffs under random faults: messages that are late, lost, repeated and reordered, a writer or a
reader that dies and is born again, cancellation at any step.

`test_handoff_mutants.py` breaks the reader in many ways, each of which this finds.
"""

from __future__ import annotations

import contextlib

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kv_transfer.handoff import Committed, Freed, Quarantined, Reserved, Verifying
from kv_transfer.ticket import PeerIdentity
from kv_transfer.writing.shipment import (
    AllQueued,
    PieceArrived,
    PieceFailed,
    PieceQueued,
    PieceStarted,
    StopAsked,
    WriterEvent,
)
from segue.api.errors import Cancelled, Overloaded
from segue.api.types import TurnId
from segue.cache.unit_pool import UnitState
from tests.kv_transfer.handoff_messages import Refused, Writing
from tests.kv_transfer.handoff_world import LIFETIME_S, WRITER, HandoffWorld


class HandoffMachine(HandoffWorld, RuleBasedStateMachine):
    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        HandoffWorld.__init__(self)

    # The reader's worker.

    @precondition(lambda self: self.seen)
    @rule()
    def reserve(self) -> None:
        self.num_turns += 1
        turn_id = TurnId(f"turn-{self.num_turns}")
        with contextlib.suppress(Overloaded):
            reservation = self.reader.reserve(
                turn_id,
                num_prompt_tokens=10,
                extra_tokens=5,
                writer=PeerIdentity(worker_id=WRITER, epoch=self.seen[WRITER], address="there:1"),
                lifetime_s=LIFETIME_S,
            )
            self.reservations[turn_id] = self.every[reservation.ticket.ticket_id] = reservation
            self.num_free = self.node.pages.counts().free

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
            self.compute_checksums()

    @precondition(lambda self: self.is_writer_alive)
    @rule(end=st.sampled_from(["abort", "death", "refusal"]))
    def break_off(self, end: str) -> None:
        """An undisturbed handoff that starts and fails."""
        self.hand_off(1, True)
        if (reservation := self.reservations.get(TurnId(f"turn-{self.num_turns}"))) is None:
            return
        ticket_id = reservation.ticket.ticket_id
        if end == "abort":
            writing = self.used[ticket_id]
            assert writing is not None
            self.step(writing, StopAsked("on command"))
            self.receive(self.messages.pop())
            return
        self.given_up.add(reservation.ticket.turn_id)
        self.reservations.pop(reservation.ticket.turn_id).give_up(Cancelled("on command"))
        if end == "death":
            self.end_writer()
            self.receive(self.messages.pop())
        self.receive(Refused(ticket_id))

    @precondition(lambda self: self.reservations)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """Its turn ended, or was cancelled."""
        turn_id = data.draw(st.sampled_from(sorted(self.reservations)))
        reservation, error = self.reservations.pop(turn_id), Cancelled("on command")
        was_lost = reservation.failure
        self.given_up.add(turn_id)
        reservation.give_up(error)
        assert reservation.failure is (was_lost or error), "its turn waits for nothing else"

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

    @rule(seconds=st.sampled_from([1.0, LIFETIME_S]))
    def expire(self, seconds: float) -> None:
        self.clock.now += seconds
        self.reader.expire_due()
        reserved = [one for one in self.every.values() if isinstance(one.state, Reserved)]
        assert all(one.expires_at > self.clock.now for one in reserved)

    @rule()
    def ask_to_stop(self) -> None:
        self.send_fences()

    @rule()
    def verify(self) -> None:
        self.compute_checksums()

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
        self.restart_writer()

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

    @invariant()
    def memory_adds_up_and_has_an_owner(self) -> None:
        owners = {*self.reader.owners(), *self.taken}
        for pool in (self.node.pages, self.node.slots):
            pool.check_invariants()
            held = set(pool.owners())
            # An arrival that has not been taken yet belongs to its reservation.
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
    def units_follow_the_state_of_their_handoff(self) -> None:
        num_held = sum(len(arrival.pages) for arrival in self.taken.values())
        for one in self.every.values():
            turn_id, state = one.ticket.turn_id, one.state
            if isinstance(state, Reserved | Verifying | Quarantined):
                is_wanted = not isinstance(state, Quarantined)
                wanted = UnitState.RESERVED if is_wanted else UnitState.QUARANTINED
                units = state.units
                assert {self.node.pages.state_of(page) for page in units.pages} == {wanted}
                assert self.node.slots.state_of(units.slot) is wanted
                assert {self.node.pages._owners[page] for page in units.pages} == {turn_id}
                num_held += len(units.pages)
            elif isinstance(state, Committed) and (arrival := one.untaken) is not None:
                states = {self.node.pages.state_of(page) for page in arrival.pages}
                assert states == {UnitState.WORKING}
                num_held += len(arrival.pages)
        assert self.node.pages.counts().free == self.node.pages.total - num_held

    @invariant()
    def a_wait_ends_when_its_handoff_is_lost_and_no_sooner(self) -> None:
        for one in self.every.values():
            if isinstance(one.state, Quarantined | Freed):
                assert one.failure is not None
            elif isinstance(one.state, Reserved | Verifying):
                assert (one.failure, one.untaken) == (None, None)

    @invariant()
    def fences_are_for_what_is_in_quarantine(self) -> None:
        asked = {fence.ticket_id: fence.writer for fence in self.reader.fence_pending()}
        quarantined = {
            ticket_id: one.writer
            for ticket_id, one in self.every.items()
            if isinstance(one.state, Quarantined)
        }
        assert asked == quarantined
        assert all(self.reader.is_quarantined(ticket_id) for ticket_id in quarantined)

    @invariant()
    def those_that_wait_for_memory_are_woken(self) -> None:
        free = self.node.pages.counts().free
        assert self.was_freed or free <= self.num_free
        self.was_freed, self.num_free = False, free

    @invariant()
    def only_complete_prompts_arrive(self) -> None:
        for reservation in self.reservations.values():
            if reservation.untaken is not None:
                assert reservation.ticket.ticket_id in self.complete

    def teardown(self) -> None:
        try:
            self.come_to_rest()
            assert self.node.pages.counts().free == self.node.pages.total
            assert self.node.slots.counts().free == self.node.slots.total
            assert self.reader.owners() == set()
        finally:
            # A mutant's machine fails on purpose, and other tests run in this process.
            self.loop.close()


HandoffMachine.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],
)
TestHandoffs = HandoffMachine.TestCase
