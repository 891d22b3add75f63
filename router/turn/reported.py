"""The events that the router sends a client about its turn, apart from tokens."""

from __future__ import annotations

from router.placement.estimate import Placement
from router.turn.lifecycle import Streaming, TurnState
from segue.answers import ParserNames
from segue.api.turn import FinishReason, Timings, TurnEnd, TurnResult, TurnSpec, TurnStarted, Usage


def started(
    spec: TurnSpec, placement: Placement, *, starts_in_reasoning: bool, parsers: ParserNames
) -> TurnStarted:
    return TurnStarted(
        session_id=spec.session_id,
        turn_id=spec.turn_id,
        prompt_tokens=spec.num_prompt,
        prefill_worker=placement.prefill.worker_id,
        decode_worker=placement.decode.worker_id,
        starts_in_reasoning=starts_in_reasoning,
        tool_call_parser=parsers.tool_calls,
        reasoning_parser=parsers.reasoning,
    )


def ended(
    result: TurnResult,
    placement: Placement,
    state: TurnState,
    *,
    received_at: float,
    router_s: float,
) -> TurnEnd:
    """`state` is the turn's, with the times of its dispatch and its first token."""
    report = result.report
    dispatched_s = first_token_s = 0.0
    if isinstance(state, Streaming):
        dispatched_s = state.dispatched_at - received_at
        first_token_s = state.first_token_at - received_at
    return TurnEnd(
        finish_reason=result.finish_reason,
        usage=result.usage,
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


def cancelled(spec: TurnSpec, num_answered: int) -> TurnEnd:
    usage = Usage(prompt_tokens=spec.num_prompt, completion_tokens=num_answered)
    return TurnEnd(finish_reason=FinishReason.CANCELLED, usage=usage)
