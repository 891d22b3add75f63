"""A turn's spans on a decode worker, made from its times after it has ended or failed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from decode_worker.engine.events import TurnReleased
from segue.api.turn import TurnSpec
from segue.process.telemetry import Clock
from segue.process.tracing.tracer import Happened, Span, Stage, Tracer, Value


@dataclass(slots=True)
class TurnTimes:
    """When the stages that a turn reached have ended, in seconds of the worker's clock; 0.0 for a
    stage that has not ended."""

    asked_at: float
    reserved_at: float = 0.0
    resident_tokens: int = 0
    is_shipped: bool = False
    """A prefill worker computes the prompt."""
    started_at: float = 0.0
    """The sequence went to the engine."""
    left: TurnReleased | None = None


@contextlib.contextmanager
def traced(tracer: Tracer, spec: TurnSpec, clock: Clock) -> Iterator[TurnTimes]:
    """Traces a turn on this worker. The block fills in its times."""
    times = TurnTimes(clock())
    with tracer.span("answer", clock) as span:
        try:
            yield times
        finally:
            if span.records:
                _describe(span, spec, times)
                for stage in stages_of(spec, times, clock()):
                    span.add(stage)


def _describe(span: Span, spec: TurnSpec, times: TurnTimes) -> None:
    span.describe(
        {
            "segue.turn.id": spec.turn_id,
            "gen_ai.usage.input_tokens": spec.num_prompt,
            "segue.resident_tokens": times.resident_tokens,
            "segue.answered_tokens": spec.num_answered,
        }
    )
    if times.left is not None and times.left.error is not None:
        span.failed(type(times.left.error).__name__)


def stages_of(spec: TurnSpec, times: TurnTimes, now: float) -> list[Stage]:
    """The stages that have started; the last one may have been cut off."""
    reserved_at = times.reserved_at or now
    stages = [Stage(name="reserve", started_at=times.asked_at, ended_at=reserved_at)]
    if times.reserved_at and times.is_shipped:
        # From the reservation until the prompt is here and verified.
        stages.append(
            Stage(name="receive", started_at=reserved_at, ended_at=times.started_at or now)
        )
    if times.started_at:
        stages.append(_decode(spec, times, times.started_at, now))
    return stages


def _decode(spec: TurnSpec, times: TurnTimes, started_at: float, now: float) -> Stage:
    events: list[Happened] = []
    attributes: dict[str, Value] = {}
    ended_at, left = now, times.left
    if left is not None:
        sequence = left.sequence
        num_new = sequence.answer.num_tokens - spec.num_answered
        attributes = {
            "gen_ai.usage.output_tokens": num_new,
            "segue.steps": num_steps(num_new, sequence.num_accepted),
            "segue.drafted_tokens": sequence.num_drafted,
            "segue.accepted_tokens": sequence.num_accepted,
        }
        if num_new:
            events = [Happened(name="first token", at=sequence.first_at)]
        if left.result is not None:
            ended_at = sequence.first_at + left.result.decode_s
            attributes["gen_ai.response.finish_reasons"] = [left.result.finish_reason.value]
        if sequence.report.computed_tokens and not times.is_shipped:
            attributes["segue.computed_tokens"] = sequence.report.computed_tokens
            attributes["segue.prefill_s"] = sequence.report.prefill_s
    return Stage(
        name="decode",
        started_at=started_at,
        ended_at=ended_at,
        attributes=attributes,
        events=events,
    )


def num_steps(num_tokens: int, num_accepted: int) -> int:
    """The first token comes with the prompt; each step gives one, and the drafts it accepts."""
    return max(num_tokens - 1 - num_accepted, 0)
