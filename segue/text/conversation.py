"""Converts a chat to the plain data that templates expect, and validates it before they run.

Field names are those of the chat format that `transformers` passes to templates. Each message is
read without its neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput, Message, ToolCall

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_NESTING = 100
"""The nesting limit for JSON in tools and tool calls: far above real schemas, far below Python's
recursion limit.
"""
MAX_KWARGS_CHARACTERS = 65_536
MAX_KWARGS_NUMBER = 1_000_000
"""A template may use such a number as a count of repetitions."""

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]

_ARGUMENTS = '{"city": "Paris"}'
_KWARGS = '{"preserve_thinking": true}'
_TOOL = '{"type": "function", "function": {"name": …, "parameters": …}}'

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_MAY_ESCAPE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The input to a template."""

    messages: list[JsonObject]
    tools: list[JsonObject]
    template_kwargs: JsonObject = field(default_factory=dict)
    """Further variables, including `enable_thinking` if it was set."""
    continued_field: str = ""
    """The field of the last message to continue; empty if there is none."""


def read_conversation(chat: ChatInput) -> Conversation:
    """Raises InvalidRequest, naming the message and what was expected."""
    if not chat.messages:
        raise InvalidRequest("expected at least one message, got none: send a user message")
    return Conversation(
        messages=[read_message(index, message) for index, message in enumerate(chat.messages)],
        tools=[read_tool(index, text) for index, text in enumerate(chat.tools)],
        template_kwargs=read_template_kwargs(chat),
        continued_field=chat.continued_field,
    )


def read_template_kwargs(chat: ChatInput) -> JsonObject:
    """Merges `enable_thinking` into `chat_template_kwargs`. Raises InvalidRequest."""
    text = chat.chat_template_kwargs
    if len(text) > MAX_KWARGS_CHARACTERS:
        raise InvalidRequest(
            f"chat_template_kwargs must have at most {MAX_KWARGS_CHARACTERS} characters, got "
            f"{len(text)}: it is for template options; send text as messages"
        )
    kwargs = _read_object("chat_template_kwargs", text, _KWARGS) if text else {}
    _require_small_numbers(kwargs)
    if chat.enable_thinking is None:
        return kwargs
    if kwargs.get("enable_thinking", chat.enable_thinking) != chat.enable_thinking:
        raise InvalidRequest.at(
            "chat_template_kwargs.enable_thinking",
            f"expected {chat.enable_thinking}, which enable_thinking is, got "
            f"{kwargs['enable_thinking']!r:.80}: send it once",
        )
    return {**kwargs, "enable_thinking": chat.enable_thinking}


def read_message(index: int, message: Message) -> JsonObject:
    """Raises InvalidRequest."""
    where = f"messages[{index}]"
    if message.role not in ROLES:
        raise InvalidRequest.at(
            f"{where}.role", f"expected one of {', '.join(ROLES)}, got {message.role!r:.80}"
        )
    content: Json = message.content
    if message.content_parts:
        content = [{"type": "text", "text": text} for text in message.content_parts]
    data: JsonObject = {"role": message.role, "content": content}
    if message.tool_calls and message.role != "assistant":
        raise InvalidRequest.at(
            f"{where}.tool_calls",
            f"expected none, got a {message.role} message with tool calls: only an assistant "
            "message makes calls",
        )
    if message.tool_calls:
        data["tool_calls"] = [
            _tool_call(f"{where}.tool_calls[{number}]", call)
            for number, call in enumerate(message.tool_calls)
        ]
    if message.tool_call_id:
        data["tool_call_id"] = message.tool_call_id
    if message.name:
        data["name"] = message.name
    if message.reasoning is not None:
        # Templates differ on the name; transformers also provides both.
        data["reasoning_content"] = data["thinking"] = message.reasoning
    return data


def _tool_call(where: str, call: ToolCall) -> JsonObject:
    if not call.name:
        raise InvalidRequest.at(
            where, "expected the name of the function that was called, got none: send it"
        )
    # Clients write "no arguments" in several ways.
    is_empty = call.arguments.strip() in ("", "null")
    arguments = {} if is_empty else _read_object(f"{where}.arguments", call.arguments)
    data: JsonObject = {
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
    if call.call_id:
        data["id"] = call.call_id
    return data


def read_tool(index: int, text: str) -> JsonObject:
    """Raises InvalidRequest."""
    where = f"tools[{index}]"
    inside = f"{where}.function"
    tool = _read_object(where, text, _TOOL)
    if "function" not in tool and "name" in tool:
        inside = where
        function = {key: value for key, value in tool.items() if key != "type"}
        tool = {"type": "function", "function": function}
    called = tool.get("function")
    if tool.get("type") not in ("function", None) or not isinstance(called, dict):
        raise InvalidRequest(f"{where} must be {_TOOL}, got an object with {_name_members(tool)}")
    name = called.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest.at(
            f"{inside}.name", f"expected a string, got {name!r:.80}: name the function"
        )
    parameters = called.get("parameters")
    # PHP encodes an empty object as an empty array.
    if not isinstance(parameters, dict | None) and parameters != []:
        raise InvalidRequest.at(
            f"{inside}.parameters",
            f"expected a JSON schema object for {name!r:.80}, got {_name_type(parameters)}",
        )
    return tool


def _read_object(where: str, text: str, example: str = _ARGUMENTS) -> JsonObject:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"{where} must be a JSON object such as {example}, "
            f"got text that is not JSON ({error}): {text!r:.80}"
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"{where} must be a JSON object such as {example}, "
            f"got {_name_type(value)}: {text!r:.80}"
        )
    if _nests_too_deep(value):
        raise InvalidRequest(f"{where} must nest at most {MAX_NESTING} levels deep: flatten it")
    if _MAY_ESCAPE_SURROGATE.search(text) and _has_lone_surrogate(value):
        raise InvalidRequest(
            f"{where} must be valid Unicode, got half of a surrogate pair: look for \\ud800 to "
            "\\udfff in its JSON, and send whole characters"
        )
    return cast("JsonObject", value)


def _has_lone_surrogate(value: JsonObject) -> bool:
    return bool(_LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)))


def _nests_too_deep(value: Json) -> bool:
    level: list[Json] = [value]
    for _ in range(MAX_NESTING):
        level = [child for parent in level for child in _children(parent)]
    return bool(level)


def _require_small_numbers(value: Json) -> None:
    if isinstance(value, int | float) and abs(value) > MAX_KWARGS_NUMBER:
        raise InvalidRequest(
            f"chat_template_kwargs must have numbers of at most {MAX_KWARGS_NUMBER}, got "
            f"{value!r:.80}: use a smaller one"
        )
    for child in _children(value):
        _require_small_numbers(child)


def _children(value: Json) -> Iterable[Json]:
    match value:
        case list():
            return value
        case dict():
            return value.values()
        case _:
            return ()


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _name_type(value: Json) -> str:
    names = {str: "a string", list: "an array", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number or boolean")


def _name_members(value: JsonObject) -> str:
    return ", ".join(f"{name!r:.40}" for name in list(value)[:8]) or "no members"
