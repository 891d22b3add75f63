"""A client's request, to protobuf and back, in pairs `x_to_wire` / `x_from_wire`.

Only modules of this package (and `kv_transfer.wire`) touch protobuf messages.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from segue.api.checks import one_of, require_count, require_few, require_type, require_whole
from segue.api.errors import InvalidRequest
from segue.api.output import MAX_CHOICES
from segue.api.types import (
    MAX_LOGIT_BIAS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
    ChatInput,
    Continuation,
    Message,
    Resume,
    Sampling,
    SamplingParams,
    SessionId,
    StopConditions,
    StopRules,
    TextInput,
    TokenInput,
    ToolCall,
    TurnId,
    TurnInput,
    TurnRequest,
)
from segue.v1 import session_pb2 as pb
from segue.wire.convert.output import output_from_wire, output_to_wire
from segue.wire.convert.same_names import enum_tables, message_of, value_of

_ROLES = ("system", "developer", "user", "assistant", "tool")
_ROLE_TO_WIRE, _ROLE_FROM_WIRE = enum_tables(
    pb.MessageRole, {role: role.upper() for role in _ROLES}
)
_CONTINUED_TO_WIRE = {
    "": pb.CONTINUED_FIELD_UNSPECIFIED,
    "content": pb.CONTINUED_FIELD_CONTENT,
    "reasoning_content": pb.CONTINUED_FIELD_REASONING,
}
_CONTINUED_FROM_WIRE: dict[pb.ContinuedField.ValueType, bool | str] = {
    pb.CONTINUED_FIELD_UNSPECIFIED: False,
    pb.CONTINUED_FIELD_CONTENT: True,
    pb.CONTINUED_FIELD_REASONING: "reasoning",
}
_SAMPLING: list[Any] = [
    field.name for field in pb.Sampling.DESCRIPTOR.fields if field.name != "logit_bias"
]
Named = TypeVar("Named")
Role = TypeVar("Role")
_SINGLE = struct.Struct("<f")
_MAX_SINGLE = 3.4028234e38


def _role(index: int, table: Mapping[Named, Role], named: Named) -> Role:
    """The role of `messages[index]`. Raises InvalidRequest."""
    if named not in table:
        raise InvalidRequest.at(
            f"messages[{index}].role", f"expected one of {', '.join(_ROLES)}, got {named!r:.80}"
        )
    return table[named]


def message_to_wire(index: int, message: Message) -> pb.Message:
    """Raises InvalidRequest."""
    return pb.Message(
        role=_role(index, _ROLE_TO_WIRE, message.role),
        content=message.content,
        tool_calls=[
            pb.ToolCall(id=call.call_id, name=call.name, arguments=call.arguments)
            for call in message.tool_calls
        ],
        tool_call_id=message.tool_call_id,
        name=message.name,
        reasoning=message.reasoning,
        content_parts=message.content_parts,
    )


def message_from_wire(index: int, message: pb.Message) -> Message:
    """Raises InvalidRequest."""
    return Message(
        role=_role(index, _ROLE_FROM_WIRE, message.role),
        content=message.content,
        tool_calls=tuple(
            ToolCall(call_id=call.id, name=call.name, arguments=call.arguments)
            for call in message.tool_calls
        ),
        tool_call_id=message.tool_call_id,
        name=message.name,
        reasoning=message.reasoning if message.HasField("reasoning") else None,
        content_parts=tuple(message.content_parts),
    )


def sampling_to_wire(sampling: SamplingParams | Sampling) -> pb.Sampling:
    """Fields that are None stay absent."""
    return message_of(pb.Sampling, sampling, logit_bias=dict(sampling.logit_bias))


def sampling_from_wire(sampling: pb.Sampling, *, default_seed: int | None = None) -> SamplingParams:
    """An absent field is not 0: it stays unset. Raises InvalidRequest."""
    given: dict[str, Any] = {"seed": default_seed}
    for name in _SAMPLING:
        if sampling.HasField(name):
            value = getattr(sampling, name)
            given[name] = as_typed(value) if isinstance(value, float) else value
    bias = {token_id: as_typed(value) for token_id, value in sampling.logit_bias.items()}
    return SamplingParams(**given, logit_bias=bias)


def as_typed(value: float) -> float:
    """The number that a client wrote, from the single-precision number that was sent: the shortest
    one that rounds to it. 0.01 is sent as 0.00999999978, which would be below a limit of 0.01.
    """
    if not math.isfinite(value):
        return value
    for digits in range(6, 9):
        typed = float(f"{value:.{digits}g}")
        # A number rounded up beyond single precision cannot be packed, and was not written.
        if abs(typed) <= _MAX_SINGLE and _SINGLE.unpack(_SINGLE.pack(typed))[0] == value:
            return typed
    return value


def stop_to_wire(stop: StopConditions | StopRules) -> pb.Stop:
    return pb.Stop(
        max_tokens=stop.max_tokens,
        strings=stop.stop_strings,
        token_ids=stop.stop_token_ids,
        ignore_eos=isinstance(stop, StopConditions) and stop.ignore_eos,
        min_tokens=stop.min_tokens,
    )


def stop_from_wire(stop: pb.Stop) -> StopConditions:
    """Raises InvalidRequest."""
    return StopConditions(
        max_tokens=stop.max_tokens if stop.HasField("max_tokens") else None,
        stop_strings=tuple(stop.strings),
        stop_token_ids=tuple(stop.token_ids),
        ignore_eos=stop.ignore_eos,
        min_tokens=stop.min_tokens,
    )


def rules_from_wire(stop: pb.Stop) -> StopRules:
    """The stop rules that the router sends to workers. Raises InvalidRequest."""
    if not stop.HasField("max_tokens"):
        raise InvalidRequest("a turn for a worker needs max_tokens, which the router sets")
    return StopRules(
        max_tokens=stop.max_tokens,
        stop_strings=tuple(stop.strings),
        stop_token_ids=tuple(stop.token_ids),
        min_tokens=stop.min_tokens,
    )


def chat_to_wire(chat: ChatInput) -> pb.ChatInput:
    """Raises InvalidRequest."""
    wire = pb.ChatInput(
        messages=map(message_to_wire, itertools.count(), chat.messages),
        tools=chat.tools,
        enable_thinking=chat.enable_thinking,
        chat_template_kwargs=chat.chat_template_kwargs,
        continue_final_message=_CONTINUED_TO_WIRE[chat.continued_field],
        omit_generation_prompt=not chat.add_generation_prompt,
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
        messages=tuple(map(message_from_wire, itertools.count(), chat.messages)),
        tools=tuple(chat.tools),
        enable_thinking=chat.enable_thinking if chat.HasField("enable_thinking") else None,
        chat_template_kwargs=chat.chat_template_kwargs,
        continue_final_message=one_of(
            "continue_final_message", _CONTINUED_FROM_WIRE, chat.continue_final_message
        ),
        add_generation_prompt=not chat.omit_generation_prompt,
        continues=continues,
    )


def _token_ids_to_wire(token_ids: Sequence[int]) -> pb.TokenIds:
    """Raises InvalidRequest. Checks each id only if packing fails: there may be a million."""
    try:
        return pb.TokenIds(ids=token_ids)
    except (TypeError, ValueError):
        require_type("token_ids", token_ids, (list, tuple), "a tuple of token ids")
        for index, token_id in enumerate(token_ids):
            require_whole(f"token_ids[{index}]", token_id)
            require_count(f"token_ids[{index}]", token_id, high=2**32 - 1)
        raise


def request_to_wire(request: TurnRequest) -> pb.GenerateRequest:
    wire = pb.GenerateRequest(
        session_id=request.session_id,
        turn_id=request.turn_id,
        session_hint=request.session_hint,
        sampling=sampling_to_wire(request.sampling),
        stop=stop_to_wire(request.stop),
        cache_salt=request.cache_salt,
        priority=request.priority,
        output=None if request.output is None else output_to_wire(request.output),
        resume=None if request.resume is None else message_of(pb.Resume, request.resume),
    )
    match request.input:
        case ChatInput() as chat:
            wire.chat.CopyFrom(chat_to_wire(chat))
        case TextInput(text):
            wire.text = text
        case TokenInput(token_ids):
            wire.token_ids.CopyFrom(_token_ids_to_wire(token_ids))
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


def num_items(chat: pb.ChatInput) -> int:
    """Messages, their parts and tool calls, and tools: each fills the context. A request of 17 MB
    may have millions, which take seconds to convert."""
    inside = sum(len(one.content_parts) + len(one.tool_calls) for one in chat.messages)
    return len(chat.messages) + len(chat.tools) + inside


def require_few_values(request: pb.GenerateRequest, max_context: int) -> None:
    """The limits of lists, before any of them is converted. Raises InvalidRequest."""
    require_few("stop_strings", request.stop.strings, MAX_STOP_STRINGS)
    require_few("stop_token_ids", request.stop.token_ids, MAX_STOP_TOKEN_IDS)
    require_few("logit_bias", request.sampling.logit_bias, MAX_LOGIT_BIAS)
    require_few("output.choice.texts", request.output.choice.texts, MAX_CHOICES)
    require_few("resume.token_ids", request.resume.token_ids, max_context)


def tokenized_to_wire(turn_input: ChatInput | TextInput) -> pb.TokenizeRequest:
    match turn_input:
        case ChatInput() as chat:
            return pb.TokenizeRequest(chat=chat_to_wire(chat))
        case TextInput(text):
            return pb.TokenizeRequest(text=text)


def tokenized_from_wire(request: pb.TokenizeRequest) -> ChatInput | TextInput:
    """Raises InvalidRequest."""
    match request.WhichOneof("input"):
        case "chat":
            return chat_from_wire(request.chat)
        case "text":
            return TextInput(request.text)
        case _:
            raise InvalidRequest("expected chat messages or text to tokenise, got none")


def token_ids_to_wire(token_ids: Sequence[int]) -> pb.DetokenizeRequest:
    """Raises InvalidRequest."""
    return pb.DetokenizeRequest(token_ids=_token_ids_to_wire(token_ids).ids)


def request_from_wire(
    request: pb.GenerateRequest, *, default_turn_id: TurnId, default_seed: int
) -> TurnRequest:
    """Raises InvalidRequest."""
    return TurnRequest(
        session_id=SessionId(request.session_id),
        turn_id=TurnId(request.turn_id) or default_turn_id,
        session_hint=request.session_hint if request.HasField("session_hint") else None,
        input=_input_from_wire(request),
        sampling=sampling_from_wire(request.sampling, default_seed=default_seed),
        stop=stop_from_wire(request.stop),
        cache_salt=request.cache_salt,
        priority=request.priority,
        output=output_from_wire(request.output) if request.HasField("output") else None,
        resume=value_of(Resume, request.resume) if request.HasField("resume") else None,
    )
