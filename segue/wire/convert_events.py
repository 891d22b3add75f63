"""The events of a client's stream, to protobuf and back, in pairs `x_to_wire` / `x_from_wire`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from segue.checks import one_of, require_count
from segue.turn import FinishReason, Timings, TokenDelta, TurnEnd, TurnEvent, TurnStarted, Usage
from segue.types import MAX_LOGPROBS, SampledToken, SessionId, TokenLogprob, TurnId
from segue.v1 import session_pb2 as pb

_FINISH_TO_WIRE = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: pb.FINISH_REASON_CANCELLED,
}
_FINISH_FROM_WIRE = {wire: reason for reason, wire in _FINISH_TO_WIRE.items()}


def sampled_to_wire(token: SampledToken) -> pb.SampledToken:
    return pb.SampledToken(
        token_id=token.token_id,
        logprob=token.logprob,
        top=[pb.TokenLogprob(token_id=t.token_id, logprob=t.logprob) for t in token.top_logprobs],
    )


def sampled_from_wire(token: pb.SampledToken) -> SampledToken:
    """Raises InvalidRequest."""
    require_count("the number of best tokens", len(token.top), high=MAX_LOGPROBS)
    return SampledToken(
        token_id=token.token_id,
        logprob=token.logprob if token.HasField("logprob") else None,
        top_logprobs=tuple(TokenLogprob(token_id=t.token_id, logprob=t.logprob) for t in token.top),
    )


def delta_to_wire(delta: TokenDelta) -> pb.TokenDelta:
    return pb.TokenDelta(
        token_ids=delta.token_ids,
        text=delta.text,
        logprobs=[sampled_to_wire(token) for token in delta.logprobs],
    )


def delta_from_wire(delta: pb.TokenDelta) -> TokenDelta:
    return TokenDelta(
        token_ids=tuple(delta.token_ids),
        text=delta.text,
        logprobs=tuple(sampled_from_wire(token) for token in delta.logprobs),
    )


def finish_reason_to_wire(reason: FinishReason) -> pb.FinishReason.ValueType:
    return _FINISH_TO_WIRE[reason]


def finish_reason_from_wire(reason: pb.FinishReason.ValueType) -> FinishReason:
    """Raises InvalidRequest."""
    return one_of("finish_reason", _FINISH_FROM_WIRE, reason)


def usage_to_wire(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        resident_tokens=usage.resident_tokens,
        completion_tokens=usage.completion_tokens,
        shipped_bytes=usage.shipped_bytes,
        pulled_tokens=usage.pulled_tokens,
        pulled_bytes=usage.pulled_bytes,
        rerendered_tokens=usage.rerendered_tokens,
        drafted_tokens=usage.drafted_tokens,
        accepted_tokens=usage.accepted_tokens,
    )


def usage_from_wire(usage: pb.Usage) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        resident_tokens=usage.resident_tokens,
        completion_tokens=usage.completion_tokens,
        shipped_bytes=usage.shipped_bytes,
        pulled_tokens=usage.pulled_tokens,
        pulled_bytes=usage.pulled_bytes,
        rerendered_tokens=usage.rerendered_tokens,
        drafted_tokens=usage.drafted_tokens,
        accepted_tokens=usage.accepted_tokens,
    )


def timings_to_wire(timings: Timings) -> pb.Timings:
    return pb.Timings(
        queue_s=timings.queue_s,
        prefill_s=timings.prefill_s,
        transfer_s=timings.transfer_s,
        exposed_transfer_s=timings.exposed_transfer_s,
        first_token_s=timings.first_token_s,
        decode_s=timings.decode_s,
        router_s=timings.router_s,
    )


def timings_from_wire(timings: pb.Timings) -> Timings:
    return Timings(
        queue_s=timings.queue_s,
        prefill_s=timings.prefill_s,
        transfer_s=timings.transfer_s,
        exposed_transfer_s=timings.exposed_transfer_s,
        first_token_s=timings.first_token_s,
        decode_s=timings.decode_s,
        router_s=timings.router_s,
    )


def end_to_wire(end: TurnEnd) -> pb.TurnEnd:
    return pb.TurnEnd(
        finish_reason=finish_reason_to_wire(end.finish_reason),
        usage=usage_to_wire(end.usage),
        timings=timings_to_wire(end.timings),
        prefill_worker=end.prefill_worker,
        decode_worker=end.decode_worker,
        stop_match=end.stop_match,
        kept_messages=end.kept_messages,
    )


def end_from_wire(end: pb.TurnEnd) -> TurnEnd:
    return TurnEnd(
        finish_reason=finish_reason_from_wire(end.finish_reason),
        usage=usage_from_wire(end.usage),
        timings=timings_from_wire(end.timings),
        prefill_worker=end.prefill_worker,
        decode_worker=end.decode_worker,
        stop_match=end.stop_match,
        kept_messages=end.kept_messages,
    )


def started_to_wire(started: TurnStarted) -> pb.TurnStarted:
    return pb.TurnStarted(
        session_id=started.session_id,
        turn_id=started.turn_id,
        prompt_tokens=started.prompt_tokens,
        prefill_worker=started.prefill_worker,
        decode_worker=started.decode_worker,
    )


def started_from_wire(started: pb.TurnStarted) -> TurnStarted:
    return TurnStarted(
        session_id=SessionId(started.session_id),
        turn_id=TurnId(started.turn_id),
        prompt_tokens=started.prompt_tokens,
        prefill_worker=started.prefill_worker,
        decode_worker=started.decode_worker,
    )


def events_to_wire(events: Iterable[TurnEvent]) -> pb.GenerateEvent:
    """Takes at most one event of each kind."""
    started = delta = end = None
    for event in events:
        match event:
            case TokenDelta():
                delta = delta_to_wire(event)
            case TurnEnd():
                end = end_to_wire(event)
            case TurnStarted():
                started = started_to_wire(event)
    return pb.GenerateEvent(started=started, delta=delta, end=end)


def events_from_wire(message: pb.GenerateEvent) -> Iterator[TurnEvent]:
    if message.HasField("started"):
        yield started_from_wire(message.started)
    if message.HasField("delta"):
        yield delta_from_wire(message.delta)
    if message.HasField("end"):
        yield end_from_wire(message.end)
