"""Input items as the messages of a chat template.

An answer consists of several items: reasoning, a message, calls. They become one assistant message,
so that the history renders as it was generated. Items of unknown types are skipped: Codex sends
several that only OpenAI's servers read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic_core import from_json

from segue.api.checks import what_came
from segue.api.errors import InvalidRequest
from segue.api.types import Message, ToolCall
from segue.gateway.http.fields import member, objects
from segue.gateway.openai.responses.tools import seen_name

Item: TypeAlias = Mapping[str, Any]

_READ = ("message", "reasoning", "function_call", "function_call_output")
"""The types that are not skipped."""
_TEXT_PARTS = ("input_text", "output_text", "text")


@dataclass(slots=True)
class _Answer:
    """The items of one answer so far."""

    reasoning: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    last_kind: object = None
    """The type of the last item; None before the first one."""

    def goes_on_with(self, kind: object) -> bool:
        """Whether an item of this type can belong to the same answer. Reasoning comes first, and
        two messages in a row are two answers.
        """
        if kind == "reasoning":
            return not (self.texts or self.calls)
        return not (kind == self.last_kind == "message")

    def messages(self) -> Iterator[Message]:
        """One, or none if there are no items."""
        if self.last_kind is not None:
            yield Message(
                role="assistant",
                content="".join(self.texts),
                reasoning="".join(self.reasoning) or None,
                tool_calls=tuple(self.calls),
            )


def read_items(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that `chat_messages` does not skip."""
    return [item for item in items if _kind(item) in _READ]


def chat_messages(items: Sequence[Item], before: Sequence[Item] = ()) -> Iterator[Message]:
    """`before` are items of earlier responses, which are valid. Raises InvalidRequest."""
    answer = _Answer()
    for index, item in enumerate((*before, *items), -len(before)):
        where = f"input[{index}]"
        kind = _kind(item)
        is_answers = kind in ("reasoning", "function_call") or (
            kind == "message" and item.get("role") == "assistant"
        )
        if is_answers:
            if not answer.goes_on_with(kind):
                yield from answer.messages()
                answer = _Answer()
            _add(answer, kind, item, where)
        elif message := _message(kind, item, where):
            yield from answer.messages()
            answer = _Answer()
            yield message
    yield from answer.messages()


def _kind(item: Item) -> object:
    # A message may leave out its type.
    return item.get("type") or "message"


def _add(answer: _Answer, kind: object, item: Item, where: str) -> None:
    answer.last_kind = kind
    match kind:
        case "reasoning":
            answer.reasoning += _reasoning(item, where)
        case "message":
            answer.texts += _texts(item.get("content"), f"{where}.content")
        case _:
            call = ToolCall(
                call_id=member(item, "call_id", str, where),
                name=seen_name(
                    member(item, "name", str, where),
                    "" if item.get("namespace") is None else member(item, "namespace", str, where),
                ),
                arguments=member(item, "arguments", str, where),
            )
            if item.get("status") == "incomplete" or not _is_object(call.arguments):
                # A streamed call that was cut off. No template renders half a call.
                answer.texts.append(f"{call.name} {call.arguments}")
            else:
                answer.calls.append(call)


def _message(kind: object, item: Item, where: str) -> Message | None:
    """None if the item is skipped."""
    match kind:
        case "message":
            role = item.get("role")
            if role not in ("user", "system", "developer"):
                raise InvalidRequest.at(
                    f"{where}.role",
                    f"expected user, assistant, system or developer, got {what_came(role)}",
                )
            return _with_content(role, item.get("content"), f"{where}.content")
        case "function_call_output":
            call_id = member(item, "call_id", str, where)
            return _with_content("tool", item.get("output"), f"{where}.output", call_id)
        case "item_reference":
            raise InvalidRequest.at(
                f"{where}.type",
                "expected an item, got a reference to one: send the item",
            )
        case _:
            return None


def _with_content(role: str, content: object, where: str, call_id: str = "") -> Message:
    texts = _texts(content, where)
    if len(texts) == 1:
        return Message(role=role, content=texts[0], tool_call_id=call_id)
    return Message(role=role, content_parts=tuple(texts), tool_call_id=call_id)


def _texts(content: object, where: str) -> list[str]:
    if isinstance(content, str):
        return [content]
    texts = []
    for index, part in enumerate(objects(content, where, "a text or a list of parts")):
        here = f"{where}[{index}]"
        if part.get("type") not in _TEXT_PARTS:
            raise InvalidRequest.at(
                here,
                f"expected a part of the type {' or '.join(_TEXT_PARTS[:2])}, got "
                f"{what_came(part.get('type'))}: only text is served",
            )
        texts.append(member(part, "text", str, here))
    return texts


def _reasoning(item: Item, where: str) -> list[str]:
    """The item's content, else its encrypted content, else its summary."""
    texts = _reasoning_texts(item, "content", where)
    if not texts:
        texts = list(decrypted(item.get("encrypted_content")))
    return texts or _reasoning_texts(item, "summary", where)


def _reasoning_texts(item: Item, name: str, where: str) -> list[str]:
    where = f"{where}.{name}"
    parts = enumerate(objects(item.get(name) or [], where, "a list of parts"))
    return [member(part, "text", str, f"{where}[{index}]") for index, part in parts]


def encrypted(reasoning: str) -> str:
    """`encrypted_content`, which clients that do not keep reasoning texts send back. It hides
    nothing: it is base64 of the text.
    """
    return base64.b64encode(reasoning.encode()).decode()


def decrypted(content: object) -> Iterator[str]:
    """The reasoning, or nothing if another server encrypted it."""
    if isinstance(content, str) and content:
        try:
            yield base64.b64decode(content, validate=True).decode()
        except (binascii.Error, ValueError):
            return


def _is_object(arguments: str) -> bool:
    try:
        # The router reads an empty text and null as no arguments.
        value = from_json(arguments.strip() or "null", allow_inf_nan=False)
        return isinstance(value, dict | None)
    except ValueError:
        return False
