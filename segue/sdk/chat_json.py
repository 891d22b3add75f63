"""Reads a chat from JSON in OpenAI's format, with Qwen's additions.

A null member counts as absent. Unknown members are ignored; a known member with an invalid value is
refused, with its path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput, Message, ToolCall

_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")
"""The first name present is used, as in transformers."""
_TEXT_PARTS = ("text", "input_text", "output_text")
_MEDIA = ("image", "image_url", "video", "video_url", "audio", "input_audio")
_SPEAKERS = ("system", "developer", "user")
"""The roles whose messages must have content. Clients omit it in an assistant's calls and for a
tool that returns nothing."""
_NAMES: dict[type, str] = {str: "string", bool: "boolean", list: "array", dict: "object"}

_Kind = TypeVar("_Kind")


def read_chat(body: object) -> ChatInput:
    """From a list of messages, or an object with `messages`. Raises InvalidRequest."""
    body = {"messages": body} if isinstance(body, list) else body
    if not isinstance(body, Mapping) or not isinstance(body.get("messages"), list):
        raise InvalidRequest("expected a list of messages, or an object with `messages`")
    kwargs = _optional(body, "chat_template_kwargs", dict)
    continued = body.get("continue_final_message")
    messages = body["messages"]
    read = tuple(read_message(one, f"messages[{index}]") for index, one in enumerate(messages))
    if continued in (True, "content") and read and messages[-1].get("content") in (None, []):
        raise InvalidRequest(
            f"expected content to continue in messages[{len(read) - 1}], got none: send the start "
            "of the answer there, or omit continue_final_message"
        )
    return ChatInput(
        messages=read,
        tools=read_tools(_optional(body, "tools", list) or []),
        enable_thinking=_optional(body, "enable_thinking", bool),
        chat_template_kwargs="" if kwargs is None else to_json(kwargs),
        continue_final_message=False if continued is None else continued,
    )


def read_tools(tools: Sequence[object]) -> tuple[str, ...]:
    """Each tool as JSON text; the router validates its contents."""
    return tuple(to_json(tool) for tool in tools)


def read_message(message: object, where: str) -> Message:
    """Raises InvalidRequest."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InvalidRequest(f"{where} must be an object with a role, got {message!r:.80}")
    calls = _optional(message, "tool_calls", list, where) or []
    reasoning = (_optional(message, name, str, where) for name in _REASONING_NAMES)
    content = message.get("content")
    if content is None and message["role"] in _SPEAKERS:
        raise InvalidRequest.at(
            f"{where}.content",
            "expected a text or a list of parts, got none: send the message's text",
        )
    return Message(
        role=message["role"],
        content=content if isinstance(content, str) else "",
        content_parts=() if content is None or isinstance(content, str) else _parts(content, where),
        tool_calls=tuple(
            _tool_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)
        ),
        tool_call_id=_optional(message, "tool_call_id", str, where) or "",
        name=_optional(message, "name", str, where) or "",
        reasoning=next((text for text in reasoning if text is not None), None),
    )


def _parts(content: object, where: str) -> tuple[str, ...]:
    if not isinstance(content, list):
        raise InvalidRequest(
            f"{where}.content must be a text or a list of parts, got {content!r:.80}"
        )
    return tuple(_part(part, f"{where}.content[{index}]") for index, part in enumerate(content))


def _part(part: object, where: str) -> str:
    kind = _kind_of_part(part) if isinstance(part, Mapping) else part
    if isinstance(part, Mapping) and kind in _TEXT_PARTS:
        return _required(part, "text", where)
    raise InvalidRequest(
        f'{where} must be {{"type": "text", "text": …}}, got {kind!r:.80}: only text is served'
    )


def _kind_of_part(part: Mapping[str, object]) -> object:
    """Templates recognise images and videos by these members, regardless of the part's type."""
    media = (name for name in _MEDIA if part.get(name) is not None)
    return next(media, None) or part.get("type", "text")


def _tool_call(call: object, where: str) -> ToolCall:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise InvalidRequest(
            f'{where} must be {{"function": {{"name": …, "arguments": …}}}}, got {call!r:.80}'
        )
    arguments = function.get("arguments")
    return ToolCall(
        call_id=_optional(call, "id", str, where) or "",
        name=_required(function, "name", where),
        arguments=arguments if isinstance(arguments, str) else to_json(arguments),
    )


def _required(found: Mapping[str, object], name: str, where: str) -> str:
    value = _optional(found, name, str, where)
    if value is None:
        raise InvalidRequest(f"{where}.{name} must be a text, got none")
    return value


def _optional(
    found: Mapping[str, object], name: str, kind: type[_Kind], where: str = ""
) -> _Kind | None:
    value = found.get(name)
    if value is None or isinstance(value, kind):
        return value
    place = f"{where}.{name}" if where else name
    raise InvalidRequest(f"{place} must be a JSON {_NAMES[kind]}, got {value!r:.80}")


def to_json(value: object) -> str:
    """The value as JSON text for a `ChatInput`. Raises InvalidRequest if it is not JSON."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"expected values that JSON can express: {error}") from None
