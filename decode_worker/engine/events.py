"""The commands that a decode engine takes and the events that it publishes."""

from __future__ import annotations

from dataclasses import dataclass

from decode_worker.engine.sequence import DecodeSequence
from segue.api.errors import SegueError
from segue.api.turn import ShipReport, TokenDelta, TurnResult, Usage
from segue.api.types import TurnId
from segue.worker.engine_thread import Drop


@dataclass(frozen=True, slots=True)
class NewTokens:
    """One turn's new tokens from one step."""

    turn_id: TurnId
    delta: TokenDelta


@dataclass(frozen=True, slots=True)
class TurnReleased:
    """The engine has released a turn. A turn that was dropped has no result."""

    turn_id: TurnId
    result: TurnResult | None
    sequence: DecodeSequence
    """In its final state: its pages and states may be cached."""
    error: SegueError | None = None
    """Set if the turn failed: then none of its memory is cached."""


Command = DecodeSequence | Drop
Event = NewTokens | TurnReleased


def prefilled_here(sequence: DecodeSequence, *, started_at: float, ended_at: float) -> ShipReport:
    """The report that a prefill worker would send, for a prompt suffix that is computed here."""
    return ShipReport(
        cached_tokens=sequence.num_cached,
        computed_tokens=sequence.num_prompt_left,
        queue_s=started_at - sequence.admitted_at,
        prefill_s=ended_at - started_at,
    )


def result_of(sequence: DecodeSequence, *, ended_at: float) -> TurnResult:
    """The result of a turn whose answer has ended."""
    finish = sequence.answer.finish
    assert finish is not None, "only called when the answer has ended"
    return TurnResult(
        finish_reason=finish,
        usage=Usage(
            prompt_tokens=sequence.turn.num_prompt,
            cached_tokens=sequence.report.cached_tokens,
            resident_tokens=sequence.resident_tokens,
            completion_tokens=sequence.answer.num_tokens,
            shipped_bytes=sequence.report.shipped_bytes,
            pulled_tokens=sequence.report.pulled_tokens,
            pulled_bytes=sequence.report.pulled_bytes,
            drafted_tokens=sequence.num_drafted,
            accepted_tokens=sequence.num_accepted,
        ),
        report=sequence.report,
        decode_s=ended_at - sequence.first_at,
        stop_match=sequence.answer.stop_match,
    )
