"""A turn under random events: its workers act, fail and die in any order, messages of earlier
attempts come late, its client leaves, cancels or runs out of time, and it is placed again.
"""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router.turn.lifecycle import Over, holders
from segue.api.cluster.status import WorkerStatus
from tests.router.fake_workers import FakeDecodeCall, settle
from tests.router.placed import seats
from tests.router.test_turn_races import (
    ANSWER,
    INTRUDERS,
    Step,
    World,
    cancel,
    fail_decode,
    fail_prefill,
    fail_transfer,
    finish_prefill,
    leave,
    lose_decode,
    lose_prefill,
    run_out_of_time,
    stop_router,
    wrongs,
)
from tests.virtual.clock import VirtualLoop

OUTCOMES = {"stop", *(outcome for outcomes in INTRUDERS.values() for outcome in outcomes)}
RETRIED = [lose_decode, lose_prefill, fail_transfer]
ENDING = [cancel, run_out_of_time, stop_router, leave, fail_decode, fail_prefill]


class TurnMachine(RuleBasedStateMachine):
    @initialize(is_local=st.booleans(), is_scored=st.booleans())
    def start(self, is_local: bool, is_scored: bool) -> None:
        self.loop = VirtualLoop()
        self.unhandled: list[object] = []
        self.loop.set_exception_handler(lambda _, about: self.unhandled.append(about))
        self.num_sent: dict[FakeDecodeCall, int] = {}
        """How much of the answer a call has sent, with what its client had before."""
        self.with_memory: set[FakeDecodeCall] = set()
        self.loop.run_until_complete(self.begin(is_local, is_scored))

    async def begin(self, is_local: bool, is_scored: bool) -> None:
        self.world = World(is_local=is_local, is_scored=is_scored)
        await settle()

    @property
    def call(self) -> FakeDecodeCall | None:
        """The last attempt on a decode worker, if it still runs."""
        decodes = self.world.workers.decodes
        return decodes[-1] if decodes and not decodes[-1].has_ended else None

    def has_started(self) -> bool:
        return self.call is not None and self.call in self.with_memory

    def left(self) -> int:
        """How many tokens the last attempt has not sent."""
        assert self.call is not None
        sent = self.num_sent.setdefault(self.call, self.call.turn.spec.num_answered)
        return len(ANSWER) - sent

    def do(self, step: Step) -> None:
        step(self.world)
        self.loop.run_until_complete(settle())

    @precondition(lambda self: self.call is not None and not self.has_started())
    @rule()
    def take_memory(self) -> None:
        """Decode reserves memory, or starts to compute the prompt itself."""
        call = self.call
        assert call is not None
        self.with_memory.add(call)
        is_shipped = isinstance(call.source, WorkerStatus)
        self.do(lambda _: call.reserve() if is_shipped else call.start_prefill())

    @precondition(lambda self: self.has_started() and self.left() > 0)
    @rule(num_tokens=st.integers(1, 3))
    def answer(self, num_tokens: int) -> None:
        """Several tokens may arrive at once."""
        call = self.call
        assert call is not None
        for _ in range(min(num_tokens, self.left())):
            call.token(ANSWER[-self.left()])
            self.num_sent[call] += 1
        self.do(lambda _: None)

    @precondition(lambda self: self.has_started() and self.left() == 0)
    @rule()
    def end_answer(self) -> None:
        call = self.call
        assert call is not None
        self.do(lambda _: call.end())
        # The prompt was written, so its writer's reply comes too, now at the latest.
        self.do(finish_prefill)

    @rule()
    def finish_prefill(self) -> None:
        self.do(finish_prefill)

    @precondition(lambda self: self.world.workers.decodes[:-1])
    @rule(data=st.data())
    def hear_of_an_earlier_attempt(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.world.workers.decodes[:-1]))
        self.do(lambda _: (call.token(9), call.end()))  # type: ignore[func-returns-value]

    @rule(step=st.sampled_from(RETRIED))
    def lose_a_worker(self, step: Step) -> None:
        if self.call is not None:
            self.do(step)

    @rule(first=st.sampled_from(RETRIED + ENDING), second=st.sampled_from(RETRIED + ENDING))
    def two_at_once(self, first: Step, second: Step) -> None:
        if self.call is not None:
            first(self.world)
            if self.call is not None:
                second(self.world)
            self.do(lambda _: None)

    @precondition(lambda self: self.call is not None)
    @rule(step=st.sampled_from(ENDING))
    def end_early(self, step: Step) -> None:
        self.do(step)

    @rule(seconds=st.sampled_from([0.001, 0.03, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @invariant()
    def no_token_is_lost_or_repeated(self) -> None:
        tokens = self.world.tokens
        assert tokens == ANSWER[: len(tokens)]

    @invariant()
    def one_attempt_goes_on(self) -> None:
        going_on = [c for c in self.world.workers.decodes if not c.has_ended and not c.num_stops]
        assert len(going_on) <= 1

    @invariant()
    def a_turn_that_is_over_holds_nothing(self) -> None:
        if isinstance(self.world.turn.state, Over):
            assert seats(self.world.placing) == {}
            assert self.world.client.done()

    @invariant()
    def workers_with_memory_have_a_seat(self) -> None:
        named = {worker.worker_id for worker in holders(self.world.turn.state)}
        assert named == set() or seats(self.world.placing) != {}

    def teardown(self) -> None:
        for _ in range(20):
            if self.world.client.done():
                break
            if self.call is None:
                self.time_passes(1.0)
            elif not self.has_started():
                self.take_memory()
            elif self.left():
                self.finish_prefill()
                self.answer(3)
            else:
                self.end_answer()
        assert wrongs(self.world, OUTCOMES) == []
        assert self.unhandled == []
        self.loop.close()


TurnMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow],
)
TestTurns = TurnMachine.TestCase
