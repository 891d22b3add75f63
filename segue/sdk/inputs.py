"""Converts the SDK's convenient forms of messages and tools to those of a request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn, TypeAlias

from segue.api.checks import kind_of, what_came
from segue.api.errors import InvalidRequest
from segue.api.types import Message
from segue.sdk.chat_json import read_message

MessageInput: TypeAlias = "str | Message | Mapping[str, object]"
"""A text is a user message; a dictionary is a message in OpenAI's format."""

_MESSAGE = (
    'a text, a segue.Message, a dictionary such as {"role": "user", "content": "Hello"}, '
    "or a list of these"
)
_TOOL = '{"type": "function", "function": {"name": …, "parameters": …}}'


def new_messages(given: Sequence[MessageInput | Sequence[MessageInput]]) -> list[Message]:
    """The messages of a turn. Flattens lists among them. Raises InvalidRequest that names an item
    that is not a message, or an empty user message.
    """
    flat: list[tuple[str, object]] = []
    for index, one in enumerate(given):
        where = f"message {index} of the turn" if len(given) > 1 else "the message"
        if isinstance(one, list | tuple):
            flat += [(f"{where}[{place}]", inner) for place, inner in enumerate(one)]
        else:
            flat.append((where, one))
    messages = [as_message(value, where) for where, value in flat]
    for (where, _), message in zip(flat, messages, strict=True):
        if message.role == "user" and not _says_something(message):
            raise InvalidRequest(f"{where} is empty: expected text to answer")
    return messages


def as_message(value: object, where: str) -> Message:
    """Raises InvalidRequest."""
    match value:
        case Message():
            return value
        case str():
            return Message(role="user", content=value)
        case Mapping():
            return read_message(value, where)
    raise InvalidRequest(f"{where} must be {_MESSAGE}, got {what_came(value)}")


def _says_something(message: Message) -> bool:
    return any(text.strip() for text in (message.content, *message.content_parts))


def tools_as_text(tools: Sequence[str | Mapping[str, object]]) -> tuple[str, ...]:
    """One JSON text per tool. Raises InvalidRequest that names the tool and its error.

    A tool only has to be JSON and to name its function, so that this error is raised in the
    caller's code. The router checks its schema.
    """
    if isinstance(tools, str | Mapping):
        raise InvalidRequest(
            f"tools must be a list of tools such as [{_TOOL}], got {kind_of(tools)}: "
            "put a single tool in a list"
        )
    if not isinstance(tools, Iterable):
        raise InvalidRequest(
            f"tools must be a list of tools such as [{_TOOL}], got {what_came(tools)}"
        )
    return tuple(_as_text(f"tools[{index}]", tool) for index, tool in enumerate(tools))


def _as_text(where: str, tool: str | Mapping[str, object]) -> str:
    text = tool if isinstance(tool, str) else _dumped(where, tool)
    try:
        read = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"{where} must be {_expected(f'text that is not JSON: {error}')}"
        ) from None
    if not isinstance(read, dict):
        raise InvalidRequest(f"{where} must be {_expected(f'JSON of {kind_of(read)}')}")
    function = read.get("function", read)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{where} must be {_expected(f'no name of a function in {text:.80}')}")
    return text


def _dumped(where: str, tool: Mapping[str, object]) -> str:
    if not isinstance(tool, Mapping):
        raise InvalidRequest(f"{where} must be {_expected(what_came(tool))}")
    try:
        return json.dumps(dict(tool), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"{where} must be {_expected(f'a value that JSON does not have: {error}')}"
        ) from None


def _expected(got: str) -> str:
    return f"a dictionary or JSON text such as {_TOOL}, got {got}"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
