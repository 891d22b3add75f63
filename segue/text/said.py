"""What an assistant said, with its control tokens: the model's own text.

Where a template looks for a control token in it (`'</think>' in content`), that one has to stay
text, or the template would not find it.
"""

from __future__ import annotations

import re
from typing import cast

from segue.text.conversation import Json, JsonObject
from segue.text.shield import ControlMarks, match_any

_REASONING = ("reasoning_content", "thinking")


class Said:
    """For one template and tokenizer."""

    def __init__(self, marks: ControlMarks, looked_for: frozenset[str]) -> None:
        self._marks = marks
        self._whole = match_any(marks.spoken)
        self._rest = match_any(marks.spoken - looked_for)
        self.searches_beside_reasoning = False
        """Whether the template looks into a content though the reasoning is given."""

    def mark(self, message: JsonObject) -> JsonObject:
        """The message as the template is to get it."""
        if message["role"] != "assistant":
            return message
        has_reasoning = "reasoning_content" in message
        tokens = self._whole if has_reasoning and not self.searches_beside_reasoning else self._rest
        marked = {"content": self._text(message["content"], tokens)}
        if has_reasoning:
            marked |= {name: self._text(message[name], tokens) for name in _REASONING}
        return {**message, **marked}

    def _text(self, value: Json, tokens: re.Pattern[str]) -> Json:
        if isinstance(value, list):
            parts = [cast("JsonObject", part) for part in value]
            return [{**part, "text": self._text(part["text"], tokens)} for part in parts]
        return self._marks.mark(cast("str", value), tokens)
