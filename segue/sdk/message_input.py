"""Turns the SDK's convenient forms of a turn's input into messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from segue.api.checks import what_came
from segue.api.errors import InvalidRequest
from segue.api.types import Message
from segue.sdk.chat_json import read_message

MessageInput: TypeAlias = "str | Message | Mapping[str, object]"
"""A text is a user message; a dictionary is a message in OpenAI's format."""

_EXPECTED = (
    'a text, a segue.Message, a dictionary such as {"role": "user", "content": "Hello"}, '
    "or a list of these"
)


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
    raise InvalidRequest(f"{where} must be {_EXPECTED}, got {what_came(value)}")


def _says_something(message: Message) -> bool:
    return any(text.strip() for text in (message.content, *message.content_parts))
