"""The events of a client's stream, to protobuf and back, in pairs `x_to_wire` / `x_from_wire`."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

from segue.api.checks import one_of, require, require_count
from segue.api.turn import (
    FinishReason,
    PromptLogprobs,
    Timings,
    TokenDelta,
    TurnEnd,
    TurnEvent,
    TurnStarted,
    Usage,
)
from segue.api.types import MAX_LOGPROBS, SampledToken, TokenLogprob
from segue.v1 import session_pb2 as pb
from segue.wire.convert.same_names import enum_tables, message_of, value_of

_FINISH_TO_WIRE, _FINISH_FROM_WIRE = enum_tables(
    pb.FinishReason, {reason: reason.name for reason in FinishReason}
)
# The packed fields of PromptLogprobs, with the type of their numbers.
_ARRAYS = {"token_ids": "I", "logprobs": "f", "ranks": "I", "top_ids": "I", "top_logprobs": "f"}


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


def prompt_logprobs_to_wire(logprobs: PromptLogprobs) -> pb.PromptLogprobs:
    packed = {name: getattr(logprobs, name).tobytes() for name in _ARRAYS}
    return pb.PromptLogprobs(num_top=logprobs.num_top, **packed)


def prompt_logprobs_from_wire(logprobs: pb.PromptLogprobs) -> PromptLogprobs:
    """Raises InvalidRequest."""
    arrays: dict[str, Any] = {}
    for name, kind in _ARRAYS.items():
        packed: bytes = getattr(logprobs, name)
        require(len(packed) % 4 == 0, f"a number in {name} has four bytes, got {len(packed)} bytes")
        arrays[name] = array(kind, packed)
    return PromptLogprobs(num_top=logprobs.num_top, **arrays)


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
        logprobs=tuple(map(sampled_from_wire, delta.logprobs)),
    )


def finish_reason_to_wire(reason: FinishReason) -> pb.FinishReason.ValueType:
    return _FINISH_TO_WIRE[reason]


def finish_reason_from_wire(reason: pb.FinishReason.ValueType) -> FinishReason:
    """Raises InvalidRequest."""
    return one_of("finish_reason", _FINISH_FROM_WIRE, reason)


def end_to_wire(end: TurnEnd) -> pb.TurnEnd:
    return message_of(pb.TurnEnd, end, finish_reason=finish_reason_to_wire(end.finish_reason))


def end_from_wire(end: pb.TurnEnd) -> TurnEnd:
    return value_of(
        TurnEnd,
        end,
        finish_reason=finish_reason_from_wire(end.finish_reason),
        usage=value_of(Usage, end.usage),
        timings=value_of(Timings, end.timings),
    )


def events_to_wire(events: Iterable[TurnEvent]) -> pb.GenerateEvent:
    """Takes at most one event of each kind."""
    started = logprobs = delta = end = None
    for event in events:
        match event:
            case PromptLogprobs():
                logprobs = prompt_logprobs_to_wire(event)
            case TokenDelta():
                delta = delta_to_wire(event)
            case TurnEnd():
                end = end_to_wire(event)
            case TurnStarted():
                started = message_of(pb.TurnStarted, event)
    return pb.GenerateEvent(started=started, prompt_logprobs=logprobs, delta=delta, end=end)


def events_from_wire(message: pb.GenerateEvent) -> list[TurnEvent]:
    events: list[TurnEvent] = []
    if message.HasField("started"):
        events.append(value_of(TurnStarted, message.started))
    if message.HasField("prompt_logprobs"):
        events.append(prompt_logprobs_from_wire(message.prompt_logprobs))
    if message.HasField("delta"):
        events.append(delta_from_wire(message.delta))
    if message.HasField("end"):
        events.append(end_from_wire(message.end))
    return events
