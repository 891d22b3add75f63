"""Folds instructions that a template has no place for: later system messages and developer
messages.

Agents put instructions between messages (`system` after the first user message, `developer`), and
Qwen3.5's template rejects both. Moving them to the front would change the whole prompt, so each one
is written into a neighbouring message instead. Inside a tool loop this is the tool's result: a
further user message would make the template drop the reasoning before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, cast

from segue.api.types import Message
from segue.text.conversation import Json, JsonObject, read_message


class MessageRules(Protocol):
    """How a template handles messages."""

    def accepts(self, role: str, is_first: bool) -> bool:
        """Whether it writes a message with this role, as the first or a later message."""

    def mark_answer(self, message: JsonObject) -> JsonObject:
        """Marks the control tokens of an assistant message (`assistant_text.py`)."""


Place: TypeAlias = tuple[int, int, int]
"""(first, end, n): the n-th message that the client's messages first to end - 1 fold into."""

INSTRUCTIONS = ("system", "developer")
_BEFORE: JsonObject = {"role": "assistant", "content": ""}
_RESULT_END = "</tool_response>"


def fold_instructions(messages: list[JsonObject], rules: MessageRules) -> list[JsonObject]:
    """The messages for the template. Does not change the input."""
    messages = [rules.mark_answer(message) for message in messages]
    if not any(message["role"] in INSTRUCTIONS for message in messages):
        return messages
    folded: list[JsonObject] = []
    waiting: list[str] = []
    for index, message in enumerate(messages):
        role = _accepted_role(cast("str", message["role"]), index == 0, rules)
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


def _accepted_role(role: str, is_first: bool, rules: MessageRules) -> str | None:
    """The role to write the message with; None if it must be folded."""
    if role not in INSTRUCTIONS or rules.accepts(role, is_first):
        return role
    # For a first message, system is always a better role than developer.
    return "system" if is_first or rules.accepts("system", False) else None


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


class FoldedMessages:
    """A session's messages in the form that its template gets, each read when the template asks for
    it. Only the places are kept between turns: most messages come from one of the client's, some
    are built from several. Raises InvalidRequest for a message that cannot be read.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        rules: MessageRules,
        known: Sequence[Place] = (),
        num_same: int = 0,
    ) -> None:
        """`known` are the places of an earlier turn with the same first `num_same` messages."""
        self._messages = messages
        self._rules = rules
        self._read: dict[int, JsonObject] = {}
        self.places = _until(known, self._clean_cut(min(num_same, len(messages))))
        # Earlier, if the earlier turn folded a message across the cut.
        start = self.places[-1][1] if self.places else 0
        self.num_same = len(self.places)
        """The number of messages that are the same as in the earlier turn."""
        while start < len(messages):
            start = self._add_group(start)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> JsonObject:
        if index not in self._read:
            first, end, number = self.places[index]
            self._read[index] = self._fold(first, end)[number]
        return self._read[index]

    def _clean_cut(self, end: int) -> int:
        """The last cut up to `end` that no folding crosses."""
        while end > 0 and self._is_joined(end):
            end -= 1
        return end

    def _is_joined(self, index: int) -> bool:
        """Whether the messages at `index - 1` and `index` may be folded into one."""
        return any(one.role in INSTRUCTIONS for one in self._messages[index - 1 : index + 1])

    def _add_group(self, first: int) -> int:
        end = first + 1
        while end < len(self._messages) and self._is_joined(end):
            end += 1
        for number, message in enumerate(self._fold(first, end)):
            self._read[len(self.places)] = message
            self.places.append((first, end, number))
        return end

    def _fold(self, first: int, end: int) -> list[JsonObject]:
        group = [read_message(index, self._messages[index]) for index in range(first, end)]
        if first == 0:
            return fold_instructions(group, self._rules)
        return fold_instructions([_BEFORE, *group], self._rules)[1:]


def _until(places: Sequence[Place], end: int) -> list[Place]:
    kept = list(places)
    while kept and kept[-1][1] > end:
        kept.pop()
    return kept
