"""The first and the last event of a turn."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from router.placement.estimate import Placement
from router.turn.dispatch import TurnContext
from router.turn.lifecycle import Streaming
from segue.api.turn import Timings, TurnEnd, TurnEvent, TurnResult, TurnSpec, TurnStarted, Usage

TurnEvents: TypeAlias = tuple[TurnEvent, ...]
"""The events of one message to the client."""


def started(spec: TurnSpec, placement: Placement, context: TurnContext) -> TurnStarted:
    return TurnStarted(
        session_id=context.session_id,
        turn_id=spec.turn_id,
        prompt_tokens=spec.num_prompt,
        prefill_worker=placement.prefill.worker_id,
        decode_worker=placement.decode.worker_id,
        starts_in_reasoning=context.starts_in_reasoning,
        tool_call_parser=context.parsers.tool_calls,
        reasoning_parser=context.parsers.reasoning,
        seed=spec.sampling.seed,
        max_tokens=spec.stop.max_tokens,
    )


def ended(
    result: TurnResult,
    placement: Placement,
    streaming: Streaming | None,
    *,
    received_at: float,
    router_s: float,
    resumed: int,
) -> TurnEnd:
    """`streaming` has the times of the turn's dispatch and first token, if there was one."""
    report = result.report
    dispatched_s = first_token_s = 0.0
    if streaming is not None:
        dispatched_s = streaming.dispatched_at - received_at
        first_token_s = streaming.first_token_at - received_at
    return TurnEnd(
        finish_reason=result.finish_reason,
        usage=_of_user(result.usage, resumed),
        timings=Timings(
            queue_s=dispatched_s + report.queue_s,
            prefill_s=report.prefill_s,
            transfer_s=report.transfer_s,
            exposed_transfer_s=report.exposed_transfer_s,
            first_token_s=first_token_s,
            decode_s=result.decode_s,
            router_s=router_s,
        ),
        prefill_worker=placement.prefill.worker_id,
        decode_worker=placement.decode.worker_id,
        stop_match=result.stop_match,
    )


def _of_user(usage: Usage, resumed: int) -> Usage:
    """The usage without tokens of the answer, which a worker that continues one may have cached."""
    if not resumed:
        return usage
    cached_tokens = min(usage.cached_tokens, usage.prompt_tokens)
    return replace(
        usage,
        cached_tokens=cached_tokens,
        resident_tokens=min(usage.resident_tokens, usage.prompt_tokens),
        pulled_tokens=min(usage.pulled_tokens, usage.prompt_tokens - cached_tokens),
        resumed=resumed,
    )
