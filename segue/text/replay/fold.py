"""Folds instructions that a template has no place for: later system messages and developer
messages.

Agents put instructions between messages (`system` after the first user message, `developer`), and
Qwen3.5's template rejects both. Moving them to the front would change the whole prompt, so each one
is written into a neighbouring message instead. Inside a tool loop this is the tool's result: a
further user message would make the template drop the reasoning before it.
"""

from __future__ import annotations

from typing import Protocol, cast

from segue.text.conversation import Json, JsonObject


class Accepts(Protocol):
    """How a template handles messages."""

    def __call__(self, role: str, is_first: bool, /) -> bool:
        """Whether it writes a message with this role, as the first message or as a later one."""

    def mark_answer(self, message: JsonObject, /) -> JsonObject:
        """Marks the control tokens of an assistant message (`assistant_text.py`)."""


INSTRUCTIONS = ("system", "developer")
_RESULT_END = "</tool_response>"


def fold_instructions(messages: list[JsonObject], accepts: Accepts) -> list[JsonObject]:
    """The messages for the template. The input is never changed."""
    messages = [accepts.mark_answer(message) for message in messages]
    if not any(message["role"] in INSTRUCTIONS for message in messages):
        return messages
    folded: list[JsonObject] = []
    waiting: list[str] = []
    for index, message in enumerate(messages):
        role = _accepted_role(cast("str", message["role"]), index == 0, accepts)
        if role is not None:
            message = message if role == message["role"] else {**message, "role": role}
            if waiting:
                message = _add(message, "\n\n".join(waiting), in_front=role == "user")
                waiting.clear()
            folded.append(message)
        elif folded[-1]["role"] in ("system", "user", "tool") and not waiting:
            folded[-1] = _add(folded[-1], _text(message), in_front=False)
        elif _comes_before_input(messages, index):
            waiting.append(_text(message))
        else:
            folded.append({"role": "user", "content": _text(message)})
    return folded


def _accepted_role(role: str, is_first: bool, accepts: Accepts) -> str | None:
    """The role to write the message with; None if it must be folded."""
    if role not in INSTRUCTIONS or accepts(role, is_first):
        return role
    # For a first message, system is always a better role than developer.
    return "system" if is_first or accepts("system", False) else None


def _comes_before_input(messages: list[JsonObject], index: int) -> bool:
    """Whether the next message that is not an instruction is from a user or tool."""
    roles = (message["role"] for message in messages[index:])
    return next((role for role in roles if role not in INSTRUCTIONS), None) in ("user", "tool")


def _add(message: JsonObject, text: str, *, in_front: bool) -> JsonObject:
    content = message["content"]
    if isinstance(content, list):
        part: Json = {"type": "text", "text": f"{text}\n\n" if in_front else f"\n\n{text}"}
        return {**message, "content": [part, *content] if in_front else [*content, part]}
    return {**message, "content": _join(cast("str", content), text, in_front)}


def _join(content: str, text: str, in_front: bool) -> str:
    if not content or not text:
        return content or text
    if in_front:
        return f"{text}\n\n{content}"
    body = content.rstrip()
    if body.endswith(_RESULT_END):
        # A tool's result in a user message: templates recognise it by its last tag.
        return f"{body.removesuffix(_RESULT_END).rstrip()}\n\n{text}\n{_RESULT_END}"
    return f"{content}\n\n{text}"


def _text(message: JsonObject) -> str:
    content = message["content"]
    if isinstance(content, list):
        return "".join(cast("str", cast("JsonObject", part)["text"]) for part in content)
    return cast("str", content)
