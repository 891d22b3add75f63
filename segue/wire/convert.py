"""Values to protobuf and back, in pairs `x_to_wire` / `x_from_wire`: what a client says and hears.

Only modules of this package (and `kv_transfer.wire`) touch protobuf messages.
"""

from __future__ import annotations

from segue.cluster_status import SessionInfo
from segue.errors import InvalidRequest
from segue.types import (
    ChatInput,
    Continuation,
    FinishReason,
    Message,
    SampledToken,
    SamplingParams,
    SessionId,
    StopConditions,
    TextInput,
    Timings,
    TokenDelta,
    TokenInput,
    TokenLogprob,
    ToolCall,
    TurnEnd,
    TurnEvent,
    TurnId,
    TurnInput,
    TurnRequest,
    TurnStarted,
    Usage,
)
from segue.wire import session_pb2 as pb

_FINISH_TO_WIRE = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: pb.FINISH_REASON_CANCELLED,
}
_FINISH_FROM_WIRE = {wire: reason for reason, wire in _FINISH_TO_WIRE.items()}


def message_to_wire(message: Message) -> pb.Message:
    return pb.Message(
        role=message.role,
        content=message.content,
        tool_calls=[
            pb.ToolCall(id=call.call_id, name=call.name, arguments=call.arguments)
            for call in message.tool_calls
        ],
        tool_call_id=message.tool_call_id,
        name=message.name,
        reasoning=message.reasoning,
    )


def message_from_wire(message: pb.Message) -> Message:
    return Message(
        role=message.role,
        content=message.content,
        tool_calls=tuple(
            ToolCall(call_id=call.id, name=call.name, arguments=call.arguments)
            for call in message.tool_calls
        ),
        tool_call_id=message.tool_call_id,
        name=message.name,
        reasoning=message.reasoning,
    )


def sampling_to_wire(sampling: SamplingParams) -> pb.Sampling:
    return pb.Sampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias),
        seed=sampling.seed,
        logprobs=sampling.logprobs,
    )


def sampling_from_wire(sampling: pb.Sampling, *, default_seed: int) -> SamplingParams:
    """Absent fields take the defaults of `SamplingParams`; an absent seed takes `default_seed`."""
    given = {
        name: getattr(sampling, name)
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "seed",
            "logprobs",
        )
        if sampling.HasField(name)
    }
    return SamplingParams(**{"seed": default_seed, **given}, logit_bias=dict(sampling.logit_bias))


def stop_to_wire(stop: StopConditions) -> pb.Stop:
    return pb.Stop(
        max_tokens=stop.max_tokens,
        strings=stop.stop_strings,
        token_ids=stop.stop_token_ids,
        ignore_eos=stop.ignore_eos,
    )


def stop_from_wire(stop: pb.Stop) -> StopConditions:
    given = {"max_tokens": stop.max_tokens} if stop.HasField("max_tokens") else {}
    return StopConditions(
        **given,
        stop_strings=tuple(stop.strings),
        stop_token_ids=tuple(stop.token_ids),
        ignore_eos=stop.ignore_eos,
    )


def chat_to_wire(chat: ChatInput) -> pb.ChatInput:
    wire = pb.ChatInput(
        messages=[message_to_wire(message) for message in chat.messages],
        tools=chat.tools,
        enable_thinking=chat.enable_thinking,
    )
    if chat.continues is not None:
        wire.continues.num_messages = chat.continues.num_messages
        wire.continues.digest = chat.continues.digest
    return wire


def chat_from_wire(chat: pb.ChatInput) -> ChatInput:
    """Raises InvalidRequest."""
    continues = None
    if chat.HasField("continues"):
        continues = Continuation(
            num_messages=chat.continues.num_messages, digest=chat.continues.digest
        )
    return ChatInput(
        messages=tuple(message_from_wire(message) for message in chat.messages),
        tools=tuple(chat.tools),
        enable_thinking=chat.enable_thinking,
        continues=continues,
    )


def request_to_wire(request: TurnRequest) -> pb.GenerateRequest:
    wire = pb.GenerateRequest(
        session_id=request.session_id,
        turn_id=request.turn_id,
        sampling=sampling_to_wire(request.sampling),
        stop=stop_to_wire(request.stop),
    )
    match request.input:
        case ChatInput() as chat:
            wire.chat.CopyFrom(chat_to_wire(chat))
        case TextInput(text):
            wire.text = text
        case TokenInput(token_ids):
            wire.token_ids.CopyFrom(pb.TokenIds(ids=token_ids))
    return wire


def _input_from_wire(request: pb.GenerateRequest) -> TurnInput:
    match request.WhichOneof("input"):
        case "chat":
            return chat_from_wire(request.chat)
        case "text":
            return TextInput(request.text)
        case "token_ids":
            return TokenInput(tuple(request.token_ids.ids))
        case _:
            raise InvalidRequest("a turn needs an input: chat messages, text or token ids")


def request_from_wire(
    request: pb.GenerateRequest, *, default_turn_id: TurnId, default_seed: int
) -> TurnRequest:
    """Raises InvalidRequest."""
    return TurnRequest(
        session_id=SessionId(request.session_id),
        turn_id=TurnId(request.turn_id) or default_turn_id,
        input=_input_from_wire(request),
        sampling=sampling_from_wire(request.sampling, default_seed=default_seed),
        stop=stop_from_wire(request.stop),
    )


def sampled_to_wire(token: SampledToken) -> pb.SampledToken:
    return pb.SampledToken(
        token_id=token.token_id,
        logprob=token.logprob,
        top=[pb.TokenLogprob(token_id=t.token_id, logprob=t.logprob) for t in token.top_logprobs],
    )


def sampled_from_wire(token: pb.SampledToken) -> SampledToken:
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
    return _FINISH_FROM_WIRE[reason]


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


def event_to_wire(event: TurnEvent) -> pb.GenerateEvent:
    match event:
        case TokenDelta():
            return pb.GenerateEvent(delta=delta_to_wire(event))
        case TurnEnd():
            return pb.GenerateEvent(end=end_to_wire(event))
        case TurnStarted():
            started = pb.TurnStarted(
                session_id=event.session_id,
                turn_id=event.turn_id,
                prompt_tokens=event.prompt_tokens,
                prefill_worker=event.prefill_worker,
                decode_worker=event.decode_worker,
            )
            return pb.GenerateEvent(started=started)


def event_from_wire(event: pb.GenerateEvent) -> TurnEvent:
    match event.WhichOneof("event"):
        case "delta":
            return delta_from_wire(event.delta)
        case "end":
            return end_from_wire(event.end)
        case _:
            return TurnStarted(
                session_id=SessionId(event.started.session_id),
                turn_id=TurnId(event.started.turn_id),
                prompt_tokens=event.started.prompt_tokens,
                prefill_worker=event.started.prefill_worker,
                decode_worker=event.started.decode_worker,
            )


def session_to_wire(session: SessionInfo) -> pb.SessionInfo:
    return pb.SessionInfo(
        session_id=session.session_id,
        prefill_worker=session.prefill_worker,
        decode_worker=session.decode_worker,
        kept_tokens=session.kept_tokens,
        kept_checkpoint_tokens=session.kept_checkpoint_tokens,
    )


def session_from_wire(session: pb.SessionInfo) -> SessionInfo:
    return SessionInfo(
        session_id=SessionId(session.session_id),
        prefill_worker=session.prefill_worker,
        decode_worker=session.decode_worker,
        kept_tokens=session.kept_tokens,
        kept_checkpoint_tokens=session.kept_checkpoint_tokens,
    )
