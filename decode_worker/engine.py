"""The engine thread of a decode worker: receive, schedule, forward, sample, publish.

The thread owns a sequence from `Admit` until it publishes the sequence's `Left`; until then the
sequence's pages and slot are in use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from decode_worker.metrics import DecodeMetrics
from decode_worker.scheduler import next_batch
from decode_worker.sequence import DecodeSequence
from segue.engine.runner import ModelRunner
from segue.engine.sampler import sample
from segue.telemetry import Clock
from segue.types import SampledToken, ShipReport, TokenDelta, TurnId, TurnResult, Usage


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
        max_prompt_tokens: int,
        clock: Clock = time.monotonic,
    ) -> None:
        self._runner = runner
        self._metrics = metrics
        self._publish = publish
        self._max_batch = max_batch
        self._max_prompt_tokens = max_prompt_tokens
        self._clock = clock
        self._running: list[DecodeSequence] = []

    def step(self, commands: Sequence[Command]) -> bool:
        """A token for each sequence of one batch. Returns whether there is more to do."""
        self._receive(commands)
        if not self._running:
            return False
        started_at = self._clock()
        batch, self._running = next_batch(
            self._running,
            self._max_batch,
            num_prompt_tokens=lambda s: s.num_pending if s.is_in_prompt else 0,
            max_prompt_tokens=self._max_prompt_tokens,
        )
        page_tokens = self._runner.layout.page_tokens
        logits_NV = self._runner.forward([s.next_chunk(page_tokens) for s in batch])
        tokens = sample(logits_NV, [s.next_row() for s in batch])
        ended_at = self._clock()
        for sequence in batch:
            if sequence.is_in_prompt:
                self._prefilled(sequence, started_at, ended_at)
            sequence.advance(page_tokens)
        self._tell(batch, tokens)
        self._metrics.stepped(num_sequences=len(batch), seconds=self._clock() - started_at)
        return bool(self._running)

    def _prefilled(self, sequence: DecodeSequence, started_at: float, ended_at: float) -> None:
        """The rest of its prompt was computed here: the report that a prefill worker would make."""
        sequence.first_at = ended_at
        sequence.report = ShipReport(
            cached_tokens=sequence.num_cached,
            computed_tokens=sequence.num_pending,
            queue_s=started_at - sequence.admitted_at,
            prefill_s=ended_at - started_at,
        )
        self._metrics.prefilled_here(sequence.num_pending)

    def _receive(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Admit(sequence):
                    sequence.admitted_at = sequence.first_at = self._clock()
                    self._running.append(sequence)
                    if sequence.first_token is not None:
                        # The prompt is complete, and the turn may end with this token.
                        sequence.keep_checkpoint(self._runner.layout.page_tokens)
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
