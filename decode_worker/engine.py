"""The engine thread of a decode worker: receive, schedule, forward, sample, publish.

The thread owns a sequence from `Admit` until it publishes the sequence's `Left`; until then the
sequence's pages and slot are in use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from segue.engine.answer import Answer

from decode_worker.metrics import DecodeMetrics
from decode_worker.scheduler import next_batch
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
    """One turn being answered. Its cache holds every token but the last of `answer`."""

    turn: TurnSpec
    pages: Sequence[PageId]
    slot: SlotId
    first_token: SampledToken
    report: ShipReport
    answer: Answer
    sampler: SequenceSampler
    num_cached: int
    last_token_id: int = 0
    first_at: float = field(default=0.0)


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
            sequence.num_cached += 1
        self._tell(batch, tokens)
        self._metrics.stepped(num_sequences=len(batch), seconds=self._clock() - started_at)
        return bool(self._running)

    def _receive(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Admit(sequence):
                    sequence.first_at = self._clock()
                    self._running.append(sequence)
                    # Prefill drew the first token; the turn may end with it.
                    self._tell([sequence], [sequence.first_token])
                case Drop(turn_id):
                    dropped = [s for s in self._running if s.turn.turn_id == turn_id]
                    for sequence in dropped:
                        self._running.remove(sequence)
                        self._publish([Left(turn_id, None)])

    def _tell(self, batch: Sequence[DecodeSequence], tokens: Sequence[SampledToken]) -> None:
        events: list[Event] = []
        for sequence, token in zip(batch, tokens, strict=True):
            sequence.last_token_id = token.token_id
            sequence.sampler.observe(token.token_id)
            turn_id = sequence.turn.turn_id
            events.append(Said(turn_id, sequence.answer.push(token)))
            if sequence.answer.finish is not None:
                self._running.remove(sequence)
                events.append(Left(turn_id, self._result(sequence)))
        self._publish(events)

    def _result(self, sequence: DecodeSequence) -> TurnResult:
        finish = sequence.answer.finish
        assert finish is not None, "asked for when the answer has ended"
        return TurnResult(
            finish_reason=finish,
            usage=Usage(
                prompt_tokens=len(sequence.turn.prompt),
                cached_tokens=sequence.report.cached_tokens,
                completion_tokens=sequence.answer.num_tokens,
                shipped_bytes=sequence.report.shipped_bytes,
            ),
            report=sequence.report,
            decode_s=self._clock() - sequence.first_at,
            stop_match=sequence.answer.stop_match,
        )


def _to_forward(sequence: DecodeSequence) -> SequenceChunk:
    return SequenceChunk(
        token_ids=(sequence.last_token_id,),
        start=sequence.num_cached,
        page_ids=sequence.pages,
        slot_in=sequence.slot,
        slot_out=sequence.slot,
    )


def _row(sequence: DecodeSequence) -> SamplerRow:
    # The cache ends before the token that goes in now; the drawn one comes after that.
    return SamplerRow(sequence.sampler, position=sequence.num_cached + 1)
