"""A chat as the plain data that templates expect, checked. Says no before a template can go wrong.

Field names are those of the chat format that `transformers` passes to templates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias, cast

from segue.errors import InvalidRequest
from segue.types import ChatInput, Message, ToolCall

ROLES = ("system", "user", "assistant", "tool")
MAX_NESTING = 100
"""Of JSON in tools and tool calls: far above real schemas, far below Python's recursion limit."""

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What a template is given."""

    messages: list[JsonObject]
    tools: list[JsonObject]
    enable_thinking: bool


def read_conversation(chat: ChatInput) -> Conversation:
    """Raises InvalidRequest that names the message and what it should have been."""
    _check_order(chat.messages)
    return Conversation(
        messages=[_message(index, message) for index, message in enumerate(chat.messages)],
        tools=[_tool(index, text) for index, text in enumerate(chat.tools)],
        enable_thinking=chat.enable_thinking,
    )


def _check_order(messages: tuple[Message, ...]) -> None:
    if not messages:
        raise InvalidRequest("expected at least one message, got none: send a user message")
    answers_call = False
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise InvalidRequest(
                f"messages[{index}] has the unknown role {message.role!r}: use one of "
                f"{', '.join(ROLES)}"
            )
        if message.role == "tool" and not answers_call:
            raise InvalidRequest(
                f"messages[{index}] is a tool message, but no assistant message with tool calls "
                "stands before it: send the call that it answers"
            )
        if message.role != "tool":
            answers_call = message.role == "assistant" and bool(message.tool_calls)
    if messages[-1].role == "assistant":
        raise InvalidRequest(
            "the last message is an assistant message, expected one to answer: end the messages "
            "with a user or tool message"
        )


def _message(index: int, message: Message) -> JsonObject:
    where = f"messages[{index}]"
    data: JsonObject = {"role": message.role, "content": message.content}
    if message.tool_calls and message.role != "assistant":
        raise InvalidRequest(
            f"{where} is a {message.role} message with tool calls: only an assistant message "
            "makes calls"
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
    if message.reasoning:
        # Templates disagree about the name, and transformers offers both as well.
        data["reasoning_content"] = data["thinking"] = message.reasoning
    return data


def _tool_call(where: str, call: ToolCall) -> JsonObject:
    if not call.name:
        raise InvalidRequest(f"{where} has no name: send the name of the function that was called")
    arguments = _read_object(f"{where}.arguments", call.arguments)
    data: JsonObject = {
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
    if call.call_id:
        data["id"] = call.call_id
    return data


def _tool(index: int, text: str) -> JsonObject:
    where = f"tools[{index}]"
    tool = _read_object(where, text)
    if "function" not in tool and "name" in tool:
        function = {key: value for key, value in tool.items() if key != "type"}
        tool = {"type": "function", "function": function}
    called = tool.get("function")
    if tool.get("type") != "function" or not isinstance(called, dict):
        raise InvalidRequest(
            f'{where} must be {{"type": "function", "function": {{"name": …, "parameters": …}}}}, '
            f"got an object with {_name_members(tool)}"
        )
    name = called.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(
            f"{where}: function.name must be a text, got {name!r}: name the function"
        )
    if not isinstance(called.get("parameters", {}), dict):
        raise InvalidRequest(
            f"{where}: the parameters of {name!r} must be a JSON schema object, "
            f"got {_name_type(called['parameters'])}"
        )
    return tool


def _read_object(where: str, text: str) -> JsonObject:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f'{where} must be a JSON object such as {{"city": "Paris"}}, '
            f"got text that is not JSON ({error}): {_shorten(text)}"
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest(
            f'{where} must be a JSON object such as {{"city": "Paris"}}, '
            f"got {_name_type(value)}: {_shorten(text)}"
        )
    if _nests_too_deep(value):
        raise InvalidRequest(f"{where} must nest at most {MAX_NESTING} levels deep: flatten it")
    return cast("JsonObject", value)


def _nests_too_deep(value: Json) -> bool:
    level: list[Json] = [value]
    for _ in range(MAX_NESTING):
        level = [child for parent in level for child in _children(parent)]
    return bool(level)


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
    return ", ".join(map(repr, list(value)[:8])) or "no members"


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "…")
