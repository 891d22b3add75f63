"""Marks control tokens in assistant messages, which are the model's own text.

If a template searches that text for a control token (`'</think>' in content`), the token must stay
text: the template would not find a mark. Some tokens mean nothing to the template by themselves:
Qwen3.5's takes `<think>` as the start of reasoning only if there is a `</think>`.
"""

from __future__ import annotations

import re
from typing import cast

from segue.text.conversation import Json, JsonObject
from segue.text.template.shield import ControlMarks, match_any

_REASONING = ("reasoning_content", "thinking")


class AssistantText:
    """For one template and tokenizer."""

    def __init__(self, marks: ControlMarks, looked_for: frozenset[str]) -> None:
        self._marks = marks
        self._whole = match_any(marks.answer_tokens)
        self.looked_for = marks.answer_tokens & looked_for
        self.mark_always(frozenset())
        self._any_looked_for = match_any(self.looked_for)
        self.harmless: frozenset[str] = frozenset()
        """Tokens that the template looks for, but that have no effect without the others."""
        self.searches_beside_reasoning = False
        """Whether the template searches the content even if the reasoning is given."""

    def mark_always(self, tokens: frozenset[str]) -> None:
        """Always marks `tokens`: the template looks for them, but not in answers."""
        self._rest = match_any(self._marks.answer_tokens - self.looked_for | tokens)

    def mark(self, message: JsonObject) -> JsonObject:
        """The message for the template."""
        if message["role"] != "assistant":
            return message
        has_reasoning = "reasoning_content" in message
        is_whole = has_reasoning and not self.searches_beside_reasoning
        tokens = self._whole if is_whole or self._is_harmless(message) else self._rest
        marked = {"content": self._text(message["content"], tokens)}
        if has_reasoning:
            marked |= {name: self._text(message[name], tokens) for name in _REASONING}
        return {**message, **marked}

    def _is_harmless(self, message: JsonObject) -> bool:
        values = (message.get(name) for name in ("content", *_REASONING))
        found = {token for value in values for token in self._find(value)}
        return bool(found) and found <= self.harmless

    def _find(self, value: Json) -> list[str]:
        if isinstance(value, list):
            value = "".join(cast("str", cast("JsonObject", part)["text"]) for part in value)
        return self._any_looked_for.findall(value) if isinstance(value, str) else []

    def _text(self, value: Json, tokens: re.Pattern[str]) -> Json:
        if isinstance(value, list):
            parts = [cast("JsonObject", part) for part in value]
            return [{**part, "text": self._text(part["text"], tokens)} for part in parts]
        return self._marks.mark(cast("str", value), tokens)
