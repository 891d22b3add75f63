"""The engine thread of a decode worker: receive, schedule, forward, sample, publish.

The thread owns a sequence from `Admit` until it publishes the sequence's `Left`; until then the
sequence's pages and slot are in use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from decode_worker.metrics import DecodeMetrics
from decode_worker.scheduler import next_batch
from segue.engine.answer import Answer
from segue.engine.batch import SequenceChunk
from segue.engine.runner import ModelRunner
from segue.engine.sampler import SamplerRow, SequenceSampler, sample
from segue.telemetry import Clock
from segue.types import (
    PageId,
    SampledToken,
    ShipReport,
    SlotId,
    TokenDelta,
    TurnId,
    TurnResult,
    TurnSpec,
    Usage,
)


@dataclass(slots=True, kw_only=True)
class DecodeSequence:
    """One turn being answered. Its cache holds every token but the last of `answer`.

    Its state alternates between two slots: what stands in one when a page is full stays there as
    a checkpoint, and the steps after it write the other. So no state is ever copied.
    """

    turn: TurnSpec
    pages: Sequence[PageId]
    """The shared ones first, which are only read."""
    resident_tokens: int
    """In shared pages: they were here before the turn."""
    state_slot: SlotId
    """Holds the state after `num_cached` tokens."""
    other_slot: SlotId | None
    """None where there was no room for a second one: then no checkpoint is kept."""
    first_token: SampledToken
    report: ShipReport
    answer: Answer
    sampler: SequenceSampler
    num_cached: int
    answer_ids: list[int] = field(default_factory=list)
    checkpoint_tokens: int = 0
    """The prefix whose state stands in `checkpoint_slot`; 0 when none does."""
    checkpoint_slot: SlotId | None = None
    first_at: float = field(default=0.0)

    @property
    def cached_tokens(self) -> tuple[int, ...]:
        """Those whose K and V are in the pages: all but the last of the answer."""
        num_answered = self.num_cached - len(self.turn.prompt)
        return (*self.turn.prompt, *self.answer_ids[:num_answered])

    @property
    def slot_out(self) -> SlotId:
        """Where the next step writes: not over the checkpoint."""
        if self.state_slot == self.checkpoint_slot and self.other_slot is not None:
            return self.other_slot
        return self.state_slot

    def advance(self, page_tokens: int) -> None:
        """A step was computed."""
        self._turn_to(self.slot_out)
        self.num_cached += 1
        self.keep_checkpoint(page_tokens)

    def keep_checkpoint(self, page_tokens: int) -> None:
        """At a page boundary, what stands in the working slot stays there."""
        if self.num_cached % page_tokens == 0 and self.other_slot is not None:
            self.checkpoint_tokens, self.checkpoint_slot = self.num_cached, self.state_slot

    def _turn_to(self, slot: SlotId) -> None:
        if slot != self.state_slot:
            self.state_slot, self.other_slot = slot, self.state_slot


@dataclass(frozen=True, slots=True)
class Admit:
    sequence: DecodeSequence


@dataclass(frozen=True, slots=True)
class Drop:
    turn_id: TurnId


@dataclass(frozen=True, slots=True)
class Said:
    """What one step made of one turn."""

    turn_id: TurnId
    delta: TokenDelta


@dataclass(frozen=True, slots=True)
class Left:
    """The engine let go of a turn: it ended with a result, or was dropped and has none."""

    turn_id: TurnId
    result: TurnResult | None
    sequence: DecodeSequence
    """As it stood at the end: what of it is worth keeping."""


Command = Admit | Drop
Event = Said | Left


class DecodeEngine:
    def __init__(
        self,
        runner: ModelRunner,
        metrics: DecodeMetrics,
        publish: Callable[[Sequence[Event]], None],
        *,
        max_batch: int,
        clock: Clock = time.monotonic,
    ) -> None:
        self._runner = runner
        self._metrics = metrics
        self._publish = publish
        self._max_batch = max_batch
        self._clock = clock
        self._running: list[DecodeSequence] = []

    def step(self, commands: Sequence[Command]) -> bool:
        """One token for each sequence of one batch. Returns whether there is more to do."""
        self._receive(commands)
        if not self._running:
            return False
        started_at = self._clock()
        batch, self._running = next_batch(self._running, self._max_batch)
        logits_NV = self._runner.forward([_to_forward(sequence) for sequence in batch])
        tokens = sample(logits_NV, [_row(sequence) for sequence in batch])
        for sequence in batch:
            sequence.advance(self._runner.layout.page_tokens)
        self._tell(batch, tokens)
        self._metrics.stepped(num_sequences=len(batch), seconds=self._clock() - started_at)
        return bool(self._running)

    def _receive(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Admit(sequence):
                    sequence.first_at = self._clock()
                    sequence.keep_checkpoint(self._runner.layout.page_tokens)
                    self._running.append(sequence)
                    # Prefill drew the first token; the turn may end with it.
                    self._tell([sequence], [sequence.first_token])
                case Drop(turn_id):
                    dropped = [s for s in self._running if s.turn.turn_id == turn_id]
                    for sequence in dropped:
                        self._running.remove(sequence)
                        self._publish([Left(turn_id, None, sequence)])

    def _tell(self, batch: Sequence[DecodeSequence], tokens: Sequence[SampledToken]) -> None:
        events: list[Event] = []
        for sequence, token in zip(batch, tokens, strict=True):
            sequence.answer_ids.append(token.token_id)
            sequence.sampler.observe(token.token_id)
            turn_id = sequence.turn.turn_id
            events.append(Said(turn_id, sequence.answer.push(token)))
            if sequence.answer.finish is not None:
                self._running.remove(sequence)
                events.append(Left(turn_id, self._result(sequence), sequence))
        self._publish(events)

    def _result(self, sequence: DecodeSequence) -> TurnResult:
        finish = sequence.answer.finish
        assert finish is not None, "asked for when the answer has ended"
        return TurnResult(
            finish_reason=finish,
            usage=Usage(
                prompt_tokens=len(sequence.turn.prompt),
                cached_tokens=sequence.report.cached_tokens,
                resident_tokens=sequence.resident_tokens,
                completion_tokens=sequence.answer.num_tokens,
                shipped_bytes=sequence.report.shipped_bytes,
                pulled_tokens=sequence.report.pulled_tokens,
                pulled_bytes=sequence.report.pulled_bytes,
            ),
            report=sequence.report,
            decode_s=self._clock() - sequence.first_at,
            stop_match=sequence.answer.stop_match,
        )


def _to_forward(sequence: DecodeSequence) -> SequenceChunk:
    return SequenceChunk(
        token_ids=(sequence.answer_ids[-1],),
        start=sequence.num_cached,
        page_ids=sequence.pages,
        slot_in=sequence.state_slot,
        slot_out=sequence.slot_out,
    )


def _row(sequence: DecodeSequence) -> SamplerRow:
    # The cache ends before the token that goes in now; the drawn one comes after that.
    return SamplerRow(sequence.sampler, position=sequence.num_cached + 1)
