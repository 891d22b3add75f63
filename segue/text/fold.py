"""Instructions where a template has no place for them: later system messages, developer messages.

Agents put instructions between messages (`system` after the first user message, `developer`), and
Qwen3.5's template refuses both. Moved to the front they would change the whole prompt, so they are
written where they stand, into the message beside them. Inside a tool loop that is the tool's
result: one more user message would make the template drop what was thought before it.
"""

from __future__ import annotations

from typing import Protocol, cast

from segue.text.conversation import Json, JsonObject


class Accepts(Protocol):
    """What a template does with messages."""

    def __call__(self, role: str, is_first: bool, /) -> bool:
        """Whether it writes a message of this role, as the first one or later."""

    def said(self, message: JsonObject, /) -> JsonObject:
        """The message with the control tokens of what an assistant said (`said.py`)."""


INSTRUCTIONS = ("system", "developer")
_RESULT_END = "</tool_response>"


def fold_instructions(messages: list[JsonObject], accepts: Accepts) -> list[JsonObject]:
    """The messages as the template is to get them; they themselves are never changed."""
    messages = [accepts.said(message) for message in messages]
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
    """What the message is written as; None where it has to be folded."""
    if role not in INSTRUCTIONS or accepts(role, is_first):
        return role
    # As the first message, system is the better word for developer in any case.
    return "system" if is_first or accepts("system", False) else None


def _comes_before_input(messages: list[JsonObject], index: int) -> bool:
    """Whether the next message that is no instruction is one of a user or tool."""
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
        # A tool's result in a user message: templates know it by its end.
        return f"{body.removesuffix(_RESULT_END).rstrip()}\n\n{text}\n{_RESULT_END}"
    return f"{content}\n\n{text}"


def _text(message: JsonObject) -> str:
    content = message["content"]
    if isinstance(content, list):
        return "".join(cast("str", cast("JsonObject", part)["text"]) for part in content)
    return cast("str", content)
