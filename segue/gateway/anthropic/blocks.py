"""Converts Anthropic's messages, which are lists of blocks, to messages of a chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from segue.api.checks import what_came
from segue.api.errors import InvalidRequest
from segue.api.types import Message, ToolCall
from segue.gateway.http.fields import member, objects
from segue.sdk.chat_json import to_json

Block: TypeAlias = Mapping[str, Any]

# Claude Code sends it first. Its value changes each turn, which would change the whole prompt.
_BILLING = "x-anthropic-billing-header"
# Claude Code adds these after results. A separate user message would make templates drop the
# reasoning of the running task.
_REMINDER = "<system-reminder>"
_BETWEEN = "\n\n"


def system_message(system: object) -> Iterator[Message]:
    """One message, or none. Raises InvalidRequest."""
    text = "" if system is None else _joined(_texts(system, "system"))
    if text:
        yield Message(role="system", content=text)


def chat_messages(messages: Sequence[Block]) -> Iterator[Message]:
    """Raises InvalidRequest."""
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        content = message.get("content")
        match message.get("role"):
            case "user":
                yield from _of_user(_blocks(content, f"{where}.content"), f"{where}.content")
            case "assistant":
                yield _of_assistant(_blocks(content, f"{where}.content"), f"{where}.content")
            case "system":
                # Claude Code sends one after the first user message. The router merges it there.
                text = _joined(_texts(content, f"{where}.content"))
                if text:
                    yield Message(role="system", content=text)
            case role:
                raise InvalidRequest.at(
                    f"{where}.role", f"expected user, assistant or system, got {what_came(role)}"
                )


def _of_user(blocks: Sequence[Block], where: str) -> Iterator[Message]:
    """Results first, as Anthropic requires, and then the user's texts."""
    results: list[Message] = []
    texts: list[str] = []
    for index, block in enumerate(blocks):
        here = f"{where}[{index}]"
        match block.get("type"):
            case "tool_result":
                results.append(_result(block, here))
            case "text" if results and not texts and _text(block, here).startswith(_REMINDER):
                last = results[-1]
                results[-1] = replace(last, content=_joined((last.content, _text(block, here))))
            case "text":
                texts.append(_text(block, here))
            case kind:
                raise _unknown(kind, here, "text and tool_result")
    yield from results
    if texts or not results:
        yield Message(role="user", content=_joined(texts))


def _result(block: Block, where: str) -> Message:
    return Message(
        role="tool",
        tool_call_id=member(block, "tool_use_id", str, where),
        content=_joined(_texts(block.get("content") or "", f"{where}.content")),
    )


def _of_assistant(blocks: Sequence[Block], where: str) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for index, block in enumerate(blocks):
        here = f"{where}[{index}]"
        match block.get("type"):
            case "text":
                texts.append(_text(block, here))
            case "thinking":
                thoughts.append(member(block, "thinking", str, here))
            case "redacted_thinking":
                # Never ours: only the server that wrote it can read it.
                pass
            case "tool_use":
                calls.append(
                    ToolCall(
                        call_id=member(block, "id", str, here),
                        name=member(block, "name", str, here),
                        arguments=to_json(member(block, "input", dict, here)),
                    )
                )
            case kind:
                raise _unknown(kind, here, "text, thinking, redacted_thinking and tool_use")
    return Message(
        role="assistant",
        content=_joined(texts),
        reasoning=_joined(thoughts) if thoughts else None,
        tool_calls=tuple(calls),
    )


def _texts(content: object, where: str) -> Iterator[str]:
    for index, block in enumerate(_blocks(content, where)):
        here = f"{where}[{index}]"
        if block.get("type") != "text":
            raise _unknown(block.get("type"), here, "text")
        text = _text(block, here)
        if not text.startswith(_BILLING):
            yield text


def _blocks(content: object, where: str) -> Sequence[Block]:
    """A text is the same as a list with one block of text."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return objects(content, where, "a text or a list of blocks")


def _text(block: Block, where: str) -> str:
    return member(block, "text", str, where)


def _unknown(kind: object, where: str, known: str) -> InvalidRequest:
    return InvalidRequest.at(
        f"{where}.type", f"expected one of {known}, got {what_came(kind)}: only text is served"
    )


def _joined(texts: Iterator[str] | Sequence[str]) -> str:
    return _BETWEEN.join(text for text in texts if text)
