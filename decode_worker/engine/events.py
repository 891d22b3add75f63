"""What a decode engine is told, what it says, and the words for both."""

from __future__ import annotations

from dataclasses import dataclass

from decode_worker.engine.sequence import DecodeSequence
from segue.api.errors import SegueError
from segue.api.turn import ShipReport, TokenDelta, TurnResult, Usage
from segue.api.types import TurnId
from segue.worker.engine_thread import Drop


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
    error: SegueError | None = None
    """Something went wrong with it: nothing of it is worth keeping."""


Command = DecodeSequence | Drop
Event = Said | Left


def prefilled_here(sequence: DecodeSequence, *, started_at: float, ended_at: float) -> ShipReport:
    """The rest of its prompt was computed here: the report that a prefill worker would make."""
    return ShipReport(
        cached_tokens=sequence.num_cached,
        computed_tokens=sequence.num_prompt_left,
        queue_s=started_at - sequence.admitted_at,
        prefill_s=ended_at - started_at,
    )


def result_of(sequence: DecodeSequence, *, ended_at: float) -> TurnResult:
    """Of a turn whose answer has ended."""
    finish = sequence.answer.finish
    assert finish is not None, "asked for when the answer has ended"
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
