"""The engine thread of a decode worker: receive, schedule, step, publish.

    receive ─▶ launch step n + 1 ─▶ pass on the host ─▶ read step n ─▶ publish

On a CPU there is only the pass on the host, over answers and prompt suffixes together; its result
is read and published at once. With a launcher, the device steps the answers while the host computes
prompt suffixes. The result of step n is not known when step n + 1 is launched, so an answer that
ended in n still takes part in n + 1. That result is dropped, and the sequence leaves when no step
with it is in flight. The device advances every sequence by itself; the host follows when it reads
the results.

The thread owns a sequence, with its pages and slots, from its submission until it publishes the
sequence's `TurnReleased`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from decode_worker.config import DecodeConfig
from decode_worker.engine.drafting import DraftCount, Verified, next_batch
from decode_worker.engine.events import (
    Command,
    Event,
    NewTokens,
    TurnReleased,
    prefilled_here,
    result_of,
)
from decode_worker.engine.sequence import DecodeSequence
from decode_worker.engine.stepper import DeviceStepper, HostStepper, Stepper
from decode_worker.metrics import DecodeMetrics
from segue.api.errors import SegueError
from segue.api.turn import TokenDelta, TurnResult
from segue.api.types import SampledToken, TurnId
from segue.engine.device.launcher import Launched, Launcher
from segue.engine.device.result import Stepped
from segue.engine.runner import ModelRunner
from segue.process.telemetry import Clock
from segue.worker.engine_thread import Drop, Failures
from segue.worker.watchdog import EngineProgress


class _Step(NamedTuple):
    launched: Launched
    batch: Sequence[DecodeSequence]
    num_drafts: int
    started_at: float


class DecodeEngine:
    def __init__(
        self,
        runner: ModelRunner,
        metrics: DecodeMetrics,
        publish: Callable[[Sequence[Event]], None],
        config: DecodeConfig,
        progress: EngineProgress | None = None,
        *,
        launcher: Launcher | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Without a `launcher` the host computes every step. With one, the engine never holds more
        sequences than the launcher has rows."""
        self._page_tokens = runner.layout.page_tokens
        self._metrics = metrics
        self._publish = publish
        self._config = config
        self._clock = clock
        self.draft_count = DraftCount(runner, config)
        self._host: Stepper = HostStepper(runner, config, progress or EngineProgress())
        self._stepper: Stepper = self._host if launcher is None else DeviceStepper(launcher)
        """Steps the answers. The host computes prompt suffixes in any case."""
        self._running: list[DecodeSequence] = []
        self._in_flight: deque[_Step] = deque()
        self._leaving: dict[TurnId, TurnReleased] = {}
        """Turns that have ended or were dropped, while a step with them is in flight."""
        self._failures = Failures()

    def step(self, commands: Sequence[Command]) -> bool:
        """Launches a step, if there is work for one, and reads the results that are due. Returns
        whether there is more to do.

        A failed pass on the host ends its turns. A failed step on the device raises: the engine
        cannot continue after it.
        """
        self._receive(commands)
        ahead = [] if self._stepper is self._host else self._next_batch(self._stepper)
        if ahead:
            self._in_flight.append(self._launch(self._stepper, ahead))
        self._pass_on_host()
        while len(self._in_flight) > (self._stepper.num_ahead if ahead else 0):
            self._read(self._in_flight.popleft())
        return bool(self._running)

    def _receive(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case DecodeSequence() as sequence:
                    self._admit(sequence)
                case Drop(turn_id):
                    for sequence in [s for s in self._running if s.turn.turn_id == turn_id]:
                        if turn_id not in self._leaving:
                            self._publish(self._leave(sequence))

    def _admit(self, sequence: DecodeSequence) -> None:
        sequence.admitted_at = sequence.first_at = self._clock()
        self._running.append(sequence)
        if sequence.first_token is None:
            return
        try:
            events = self._start(sequence, sequence.first_token)
        except Exception as error:
            events = self._failed(sequence, error)
        self._publish(events)

    def _next_batch(self, stepper: Stepper) -> list[DecodeSequence]:
        """The sequences in this stepper's next step, if any."""
        waiting: list[DecodeSequence] = []
        others: list[DecodeSequence] = []
        for sequence in self._running:
            is_mine = stepper is (self._host if sequence.is_in_prompt else self._stepper)
            goes_on = sequence.may_go_on and sequence.turn.turn_id not in self._leaving
            (waiting if is_mine and goes_on else others).append(sequence)
        batch, in_order = next_batch(
            waiting,
            self._config.max_batch,
            num_prompt_tokens=lambda s: s.num_prompt_left,
            max_prompt_tokens=self._config.max_prompt_tokens,
        )
        self._running = [*others, *in_order]
        return batch

    def _launch(self, stepper: Stepper, batch: Sequence[DecodeSequence]) -> _Step:
        started_at = self._clock()
        answering = [sequence for sequence in batch if not sequence.is_in_prompt]
        num_drafts = self.draft_count.choose(answering)
        if answering:
            self._metrics.drafted(len(answering), num_drafts)
        launched = stepper.launch(batch, num_drafts)
        for sequence in batch:
            sequence.in_flight.append(num_drafts + 1)
        return _Step(launched, batch, num_drafts, started_at)

    def _pass_on_host(self) -> None:
        batch = self._next_batch(self._host)
        if not batch:
            return
        try:
            self._read(self._launch(self._host, batch))
        except Exception as error:
            cause = self._failures.of_pass(error)
            failed = [s for s in batch if s in self._running]
            self._publish([left for s in failed for left in self._leave(s, error=cause)])
        else:
            self._failures.passed()

    def _read(self, step: _Step) -> None:
        stepped = step.launched.wait()
        ended_at = self._clock()
        events: list[Event] = []
        verified: list[Verified] = []
        num_prefilled = 0
        for sequence, one in zip(step.batch, stepped, strict=True):
            sequence.in_flight.popleft()
            if sequence.turn.turn_id in self._leaving:
                events += self._let_go(sequence)
                continue
            try:
                if sequence.is_in_prompt:
                    num_prefilled += 1
                    self._prefilled(sequence, step.started_at, ended_at)
                    events += self._start(sequence, one.tokens[0])
                elif one.tokens:
                    delta = _push(sequence, one.tokens)
                    verified.append(self._move_on(sequence, one, len(delta.token_ids)))
                    events += self._answer_grew(sequence, delta)
            except Exception as error:
                events += self._failed(sequence, error)
        self._publish(events)
        seconds = step.launched.seconds
        if seconds is None:
            seconds = self._clock() - step.started_at
        if len(verified) == len(step.batch):
            self.draft_count.stepped(step.num_drafts, seconds, verified)
        num_sequences = num_prefilled + len(verified)
        self._metrics.stepped(verified, num_sequences=num_sequences, seconds=seconds)

    def _prefilled(self, sequence: DecodeSequence, started_at: float, ended_at: float) -> None:
        num_computed = sequence.num_prompt_left
        sequence.first_at = ended_at
        sequence.report = prefilled_here(sequence, started_at=started_at, ended_at=ended_at)
        self._metrics.prefilled_here(num_computed)
        sequence.prompt_computed(self._page_tokens)

    def _start(self, sequence: DecodeSequence, first: SampledToken) -> list[Event]:
        """Starts an answer whose prompt is in the cache. It may end with its first token."""
        sequence.keep_checkpoint(self._page_tokens)
        events = self._answer_grew(sequence, _push(sequence, [first]))
        if sequence.answer.finish is None:
            self._stepper.start(sequence)
        return events

    def _move_on(self, sequence: DecodeSequence, one: Stepped, num_new: int) -> Verified:
        # The host stops where the answer ends; a device may have gone further.
        num_moved = len(one.tokens) if self._stepper.num_ahead else num_new
        sequence.stepped(one.num_drafted, num_moved, num_new, self._page_tokens)
        return Verified(one.num_drafted, len(one.tokens) - 1, num_new)

    def _answer_grew(self, sequence: DecodeSequence, delta: TokenDelta) -> list[Event]:
        new_tokens = NewTokens(sequence.turn.turn_id, delta)
        if sequence.answer.finish is None:
            return [new_tokens]
        result = result_of(sequence, ended_at=self._clock())
        return [new_tokens, *self._leave(sequence, result=result)]

    def _failed(self, sequence: DecodeSequence, error: Exception) -> list[Event]:
        return self._leave(sequence, error=self._failures.of_sequence(error))

    def _leave(
        self,
        sequence: DecodeSequence,
        *,
        result: TurnResult | None = None,
        error: SegueError | None = None,
    ) -> list[Event]:
        turn_id = sequence.turn.turn_id
        self._leaving[turn_id] = TurnReleased(turn_id, result, sequence, error)
        return self._let_go(sequence)

    def _let_go(self, sequence: DecodeSequence) -> list[Event]:
        """Frees the row and returns `TurnReleased`, unless a step of the sequence is in flight."""
        if sequence.in_flight:
            return []
        self._running.remove(sequence)
        self._stepper.end(sequence)
        return [self._leaving.pop(sequence.turn.turn_id)]


def _push(sequence: DecodeSequence, tokens: Sequence[SampledToken]) -> TokenDelta:
    """Adds to the answer the tokens that belong to it."""
    delta = sequence.answer.push(tokens)
    sequence.answer_ids += delta.token_ids
    if sequence.constraint is not None:
        sequence.constraint.take(delta.token_ids)
    return delta
