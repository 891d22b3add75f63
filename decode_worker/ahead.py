"""The engine thread where steps are functions of the device: it launches one before it has read the
one before it.

    receive ─▶ launch step n + 1 ─▶ compute prompts' ends ─▶ read step n ─▶ publish

What step n said is not known when n + 1 is launched. So an answer that has ended in n takes part in
n + 1 for nothing: what that step says of it is dropped, and its pages, slots and row are let go of
when it is done. The device moves every sequence on by itself; the host follows from what it reads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from decode_worker.config import DecodeConfig
from decode_worker.drafting import DraftCount, Verified
from decode_worker.events import (
    Admit,
    Command,
    Drop,
    Event,
    Left,
    Said,
    prefilled_here,
    result_of,
)
from decode_worker.metrics import DecodeMetrics
from decode_worker.scheduler import next_batch
from decode_worker.sequence import DecodeSequence
from segue.engine.failures import Failures
from segue.engine.launcher import Launched, Launcher, StepRequest
from segue.engine.runner import ModelRunner
from segue.engine.sampler import needs_of, sample
from segue.engine.step_buffers import RowStart
from segue.engine.step_result import Stepped
from segue.kernels.sampling import Needs
from segue.telemetry import Clock
from segue.turn import TokenDelta
from segue.types import SampledToken


@dataclass(slots=True, eq=False)
class _Running:
    """A sequence that steps go on with."""

    sequence: DecodeSequence
    row: int
    in_flight: deque[int]
    """Of each step under way that it is part of: how many tokens it may get there."""
    left: Left | None = None
    """It has ended or was dropped. Said when no step is under way with it."""

    @property
    def may_go_on(self) -> bool:
        """Whether a further step can be of use: each one under way makes a token at least."""
        max_tokens = self.sequence.turn.stop.max_tokens
        return self.left is None and self.num_said + len(self.in_flight) < max_tokens

    @property
    def num_said(self) -> int:
        return len(self.sequence.answer_ids)

    @property
    def max_position(self) -> int:
        """Of its last token when the steps under way are done: as far as they may come, and no
        further than its answer may go."""
        turn = self.sequence.turn
        longest = len(turn.prompt) + turn.stop.max_tokens
        return min(self.sequence.num_cached + sum(self.in_flight), longest - 1)


@dataclass(frozen=True, slots=True)
class _Step:
    launched: Launched
    batch: Sequence[_Running]
    num_drafts: int


class AheadEngine:
    def __init__(
        self,
        runner: ModelRunner,
        launcher: Launcher,
        metrics: DecodeMetrics,
        publish: Callable[[Sequence[Event]], None],
        config: DecodeConfig,
        *,
        num_rows: int,
        clock: Clock = time.monotonic,
    ) -> None:
        """`num_rows` of the launcher; never more sequences are here at once."""
        self._runner = runner
        self._launcher = launcher
        self._page_tokens = runner.layout.page_tokens
        self._metrics = metrics
        self._publish = publish
        self._config = config
        self._clock = clock
        self._draft_count = DraftCount(runner, config)
        self._prompts: list[DecodeSequence] = []
        self._running: list[_Running] = []
        self._free_rows = list(range(num_rows))
        self._steps: deque[_Step] = deque()
        # A step on the device that fails leaves nothing that could go on: that ends the process.
        self._failures = Failures()

    @property
    def draft_reach(self) -> int:
        """For how many drafts a sequence that begins now should have slots. Any thread may read."""
        return self._draft_count.reach

    def step(self, commands: Sequence[Command]) -> bool:
        """Launches a step, if there is one to make, and reads what is then due. Returns whether
        there is more to do.
        """
        self._receive(commands)
        has_launched = self._launch()
        self._compute_prompts()
        while len(self._steps) > (self._launcher.num_ahead if has_launched else 0):
            self._read(self._steps.popleft())
        return bool(self._running or self._prompts)

    def _receive(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Admit(sequence):
                    sequence.admitted_at = sequence.first_at = self._clock()
                    if sequence.first_token is None:
                        self._prompts.append(sequence)
                    else:
                        # The prompt is complete, and the turn may end with this token.
                        self._publish(self._begin(sequence, sequence.first_token))
                case Drop(turn_id):
                    for sequence in [s for s in self._prompts if s.turn.turn_id == turn_id]:
                        self._prompts.remove(sequence)
                        self._publish([Left(turn_id, None, sequence)])
                    for running in list(self._running):
                        if running.sequence.turn.turn_id == turn_id and running.left is None:
                            running.left = Left(turn_id, None, running.sequence)
                            self._publish(self._let_go(running))

    def _begin(self, sequence: DecodeSequence, first: SampledToken) -> list[Event]:
        """The first token of an answer, and a row for those after it."""
        turn = sequence.turn
        try:
            sequence.keep_checkpoint(self._page_tokens)
            delta = _push(sequence, [first])
            if sequence.answer.finish is not None:
                result = result_of(sequence, ended_at=self._clock())
                return [Said(turn.turn_id, delta), Left(turn.turn_id, result, sequence)]
        except Exception as error:
            return [Left(turn.turn_id, None, sequence, self._failures.of_sequence(error))]
        row = self._free_rows.pop()
        self._launcher.start(
            row,
            RowStart(
                last_token=sequence.answer_ids[-1],
                position=sequence.num_cached,
                num_left=turn.stop.max_tokens - len(sequence.answer_ids),
                page_ids=sequence.pages,
                slots=sequence.ring.slots,
                state=sequence.ring.state,
                checkpoint=sequence.ring.checkpoint,
                end_ids=sorted(sequence.answer.end_ids),
            ),
            turn.sampling,
            prompt_ids=turn.prompt,
            answer_ids=sequence.answer_ids,
        )
        self._running.append(_Running(sequence, row, deque()))
        return [Said(turn.turn_id, delta)]

    def _launch(self) -> bool:
        waiting = [one for one in self._running if one.may_go_on]
        if not waiting:
            return False
        batch, in_order = next_batch(
            waiting,
            self._config.max_batch,
            num_prompt_tokens=lambda _: 0,
            max_prompt_tokens=self._config.max_prompt_tokens,
        )
        self._running = [*(one for one in self._running if one not in waiting), *in_order]
        num_drafts = self._draft_count.choose([one.sequence for one in batch])
        self._metrics.drafted(len(batch), num_drafts)
        params = [one.sequence.turn.sampling for one in batch]
        needs = Needs()
        for each in params:
            needs |= needs_of(each)
        request = StepRequest(
            rows=[one.row for one in batch],
            num_drafts=num_drafts,
            max_position=max(one.max_position for one in batch),
            num_logprobs=[each.logprobs for each in params],
            needs=needs,
        )
        for one in batch:
            one.in_flight.append(num_drafts + 1)
        self._steps.append(_Step(self._launcher.launch(request), batch, num_drafts))
        return True

    def _compute_prompts(self) -> None:
        """One pass over ends of prompts, and the first token of each."""
        if not self._prompts:
            return
        started_at = self._clock()
        batch, in_order = next_batch(
            self._prompts,
            self._config.max_batch,
            num_prompt_tokens=lambda s: s.num_prompt_left,
            max_prompt_tokens=self._config.max_prompt_tokens,
        )
        self._prompts = in_order[: -len(batch)]
        try:
            logits_RV = self._runner.forward([s.next_chunk(self._page_tokens) for s in batch])
            tokens = sample(logits_RV, [row for s in batch for row in s.next_rows()])
        except Exception as error:
            told = self._failures.of_pass(error)
            self._publish([Left(s.turn.turn_id, None, s, told) for s in batch])
            return
        self._failures.passed()
        ended_at = self._clock()
        events: list[Event] = []
        for sequence, token in zip(batch, tokens, strict=True):
            num_computed = sequence.num_prompt_left
            sequence.first_at = ended_at
            sequence.report = prefilled_here(sequence, started_at=started_at, ended_at=ended_at)
            self._metrics.prefilled_here(num_computed)
            sequence.prompt_computed(self._page_tokens)
            events += self._begin(sequence, token)
        self._publish(events)
        self._metrics.stepped([], num_sequences=len(batch), seconds=ended_at - started_at)

    def _read(self, step: _Step) -> None:
        stepped = step.launched.wait()
        events: list[Event] = []
        verified: list[Verified] = []
        for running, one in zip(step.batch, stepped, strict=True):
            running.in_flight.popleft()
            if running.left is None and one.tokens:
                try:
                    verified.append(self._go_on(running, one, events))
                except Exception as error:
                    told = self._failures.of_sequence(error)
                    turn_id = running.sequence.turn.turn_id
                    running.left = Left(turn_id, None, running.sequence, told)
            if running.left is not None:
                events += self._let_go(running)
        self._publish(events)
        seconds = step.launched.seconds
        if len(verified) == len(step.batch):
            self._draft_count.stepped(step.num_drafts, seconds, verified)
        self._metrics.stepped(verified, num_sequences=len(verified), seconds=seconds)

    def _go_on(self, running: _Running, stepped: Stepped, events: list[Event]) -> Verified:
        sequence, tokens = running.sequence, stepped.tokens
        delta = _push(sequence, tokens)
        num_said = len(delta.token_ids)
        sequence.stepped(stepped.num_drafted, len(tokens), num_said, self._page_tokens)
        turn_id = sequence.turn.turn_id
        events.append(Said(turn_id, delta))
        if sequence.answer.finish is not None:
            result = result_of(sequence, ended_at=self._clock())
            running.left = Left(turn_id, result, sequence)
        return Verified(stepped.num_drafted, len(tokens) - 1, num_said)

    def _let_go(self, running: _Running) -> list[Event]:
        """If no step is under way with it."""
        if running.in_flight:
            return []
        assert running.left is not None, "only what has ended is let go of"
        self._running.remove(running)
        self._free_rows.append(running.row)
        return [running.left]


def _push(sequence: DecodeSequence, tokens: Sequence[SampledToken]) -> TokenDelta:
    """Adds to the answer what belongs to it. What penalties count is counted by the device."""
    delta = sequence.answer.push_run(tokens)
    sequence.answer_ids += delta.token_ids
    return delta
