"""Finds the end of the reasoning at the start of an answer.

Calls in the reasoning are only text. But a model may forget </think> before its call. A call that
starts a line is therefore held back, together with the text after it, until </think> shows that it
was only text, or until the text ends.
"""

from __future__ import annotations

import re

from segue.api.messages import THINK_END, THINK_START

_OPENING = "<tool_call>"
_FUNCTION = "<function="
_CALL = re.compile(rf"{THINK_END}|{_OPENING}\s{{0,64}}(?:{_FUNCTION}|[{{\[])")
_BEGUN = "|".join(
    re.escape(tag[:size])
    for tag in (THINK_END, _OPENING)
    for size in range(len(tag), 0, -1)
    if tag[:size] != THINK_END
)
_FUNCTION_BEGUN = "|".join(_FUNCTION[:size] for size in range(len(_FUNCTION) - 1, 0, -1))
# The text so far may be the start of what _CALL finds.
_UNFINISHED = re.compile(rf"(?:{_OPENING}\s{{0,64}}(?:{_FUNCTION_BEGUN})?|{_BEGUN})\Z")
_MAX_UNFINISHED = 100
_MAX_INDENT = 64


class Reasoning:
    """Text that starts in the reasoning. `has_calls`: a call may follow it without </think>."""

    def __init__(self, *, has_calls: bool) -> None:
        self.is_over = False
        self.rest = ""
        """The text after the end of the reasoning."""
        self.held: list[str] = []
        """Text from a call on that may be the answer."""
        self._tail = ""
        """May be the start of </think> or of a call. While text is held: its last characters."""
        self._is_line_blank = True
        self._has_calls = has_calls

    def push(self, text: str) -> str:
        """Returns what is certainly reasoning."""
        if self.held:
            return self._hold(text)
        text = self._tail + text
        position = 0
        while found := _CALL.search(text, position):
            start = found.start()
            if found[0] == THINK_END:
                self.is_over, self.rest = True, text[found.end() :]
                return text[:start]
            if self._has_calls and self._starts_line(text, start):
                self._tail = ""
                return text[:start] + self._hold(text[start:])
            position = start + len(_OPENING)
        unfinished = _UNFINISHED.search(text, max(position, len(text) - _MAX_UNFINISHED))
        end = unfinished.start() if unfinished else len(text)
        self._is_line_blank = self._is_blank(text, end, text.rfind("\n", 0, end))
        self._tail = text[end:]
        return text[:end]

    def finish(self) -> str:
        """Returns the rest that is not held, at the end of the text."""
        return "" if self.held else self._tail

    def _hold(self, text: str) -> str:
        self.held.append(text)
        recent = self._tail + text
        end = recent.find(THINK_END)
        if end < 0:
            self._tail = recent[-len(THINK_END) + 1 :]
            return ""
        self.is_over, self.rest = True, recent[end + len(THINK_END) :]
        held, self.held = "".join(self.held), []
        return held[: len(held) - len(self.rest) - len(THINK_END)]

    def _starts_line(self, text: str, start: int) -> bool:
        newline = text.rfind("\n", max(0, start - _MAX_INDENT), start)
        is_near = newline >= 0 or start <= _MAX_INDENT
        return is_near and self._is_blank(text, start, newline)

    def _is_blank(self, text: str, end: int, newline: int) -> bool:
        """Whether there is only whitespace between the line's start and `end`."""
        return not text[newline + 1 : end].strip() and (newline >= 0 or self._is_line_blank)


class ReasoningSpacing:
    """Strips the line ends around the reasoning, and a <think> that the model wrote."""

    def __init__(self) -> None:
        self.is_empty = True
        self._start: str | None = ""
        """The text so far, if it may be the start of <think>."""
        self._line_ends: list[str] = []

    def add(self, text: str) -> str:
        if self._start is not None:
            text = (self._start + text).lstrip("\n")
            if text.startswith(THINK_START):
                text = THINK_START + text.removeprefix(THINK_START).lstrip("\n")
            if THINK_START.startswith(text):
                self._start = text
                return ""
            self._start = None
            text = text.removeprefix(THINK_START)
        words = text.rstrip("\n")
        if not words:
            self._line_ends.append(text)
            return ""
        shown = "".join(self._line_ends) + words
        self._line_ends = [text[len(words) :]]
        self.is_empty = False
        return shown

    def finish(self) -> str:
        return (self._start or "").removeprefix(THINK_START)
