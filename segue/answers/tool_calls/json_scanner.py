"""Finds the end of a JSON value whose text arrives in pieces, and copies part of it as it comes."""

from __future__ import annotations

import json
import re
from typing import Literal

from segue.answers.tool_calls.literals import finite_or_text, integer_or_text

_PIECES = {
    "": re.compile(r"[ \t\n\r]*"),
    "string": re.compile(r'[^"\\]*(["\\]?)'),
    "escape": re.compile(r".", re.DOTALL),
    "word": re.compile(r"[-+.0-9A-Za-z]*"),
}
_ESCAPE = re.compile(r'["\\/bfnrt]|u[0-9a-fA-F]{4}')
_PARTIAL_ESCAPE = re.compile(r"u[0-9a-fA-F]{0,3}")
_CONTROL = re.compile(r"[\x00-\x1f]")
_WORD = re.compile(
    r"true|false|null|NaN|-?Infinity|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
)
_CLOSED_BY = {"{": "}", "[": "]"}
_MAY_CLOSE = {"}": ("first key", "after"), "]": ("first value", "after")}


class JsonScanner:
    """It accepts what `read_json` accepts: control characters in strings, and NaN."""

    def __init__(self) -> None:
        self.is_broken = False
        self._open: list[str] = []
        # The next expected token: a value, a key, a colon, or a comma or closing bracket.
        self._next: Literal["value", "first value", "key", "first key", ":", "after"] = "value"
        self._in: Literal["", "string", "escape", "word"] = ""
        self._token: list[str] = []
        """The unfinished number, word or escape."""
        self._copy: list[str] | None = None
        self._copy_level = 0
        self._held: list[str] = []
        """White space and a comma: copied with what follows them."""

    @property
    def level(self) -> int:
        """The number of open lists and objects."""
        return len(self._open)

    def copy_to(self, pieces: list[str]) -> None:
        """Appends the innermost object, which has just been opened, as it is scanned. It is
        normalised as by `read_json`, so that every JSON parser accepts it.
        """
        self._copy, self._copy_level = pieces, len(self._open)
        self._write(self._open[-1])

    def closing(self, level: int) -> str:
        """The brackets that close everything open from this level on."""
        return "".join(_CLOSED_BY[one] for one in reversed(self._open[level - 1 :]))

    def scan(self, text: str, start: int, *, stop_level: int = 0) -> int | None:
        """The value's end in `text`, which continues at `start`; or the position after the bracket
        that opens `stop_level`, if that comes first. None if the value is incomplete, or
        `is_broken`.
        """
        position = start
        while position < len(text) and not self.is_broken:
            found = _PIECES[self._in].match(text, position)
            assert found is not None
            position = found.end()
            if self._in == "string":
                self._end_string(found[0], found[1])
            elif self._in == "escape":
                self._escape(found[0])
            elif self._in == "word":
                self._token.append(found[0])
                if position < len(text):
                    self._end_word()
            else:
                self._hold(found[0])
                if position == len(text):
                    return None
                level = len(self._open)
                position += self._mark(text[position])
                if not self._open:
                    return None if self.is_broken else position
                if level < len(self._open) == stop_level:
                    return position
        return None

    def _end_string(self, text: str, end: str) -> None:
        if shown := text.removesuffix("\\"):
            self._write(_CONTROL.sub(_escaped, shown))
        if end == '"':
            self._in = ""
            self._next = ":" if self._next in ("key", "first key") else "after"
        elif end:
            self._in, self._token = "escape", []

    def _escape(self, character: str) -> None:
        self._token.append(character)
        if _ESCAPE.fullmatch(escape := "".join(self._token)):
            self._in = "string"
            self._write("\\" + escape)
        elif not _PARTIAL_ESCAPE.fullmatch(escape):
            self.is_broken = True

    def _end_word(self) -> None:
        word = "".join(self._token)
        self.is_broken = not _WORD.fullmatch(word)
        if not self.is_broken:
            self._write(_finite(word))
        self._in, self._next, self._token = "", "after", []

    def _mark(self, mark: str) -> int:
        """Takes a character outside strings and words; returns its length, or 0 if it starts a
        word.
        """
        is_key = self._next in ("key", "first key")
        is_value = self._next in ("value", "first value")
        if mark == '"' and (is_key or is_value):
            self._in = "string"
        elif mark in "{[" and is_value:
            self._open.append(mark)
            self._next = "first key" if mark == "{" else "first value"
        elif self._open and mark == _CLOSED_BY[self._open[-1]] and self._next in _MAY_CLOSE[mark]:
            self._close(mark)
            return 1
        elif mark == ":" and self._next == ":":
            self._next = "value"
        elif mark == "," and self._next == "after":
            self._next = "key" if self._open[-1] == "{" else "value"
            self._hold(mark)
            return 1
        elif is_value and self._open and (mark.isalnum() or mark in "-+."):
            self._in, self._token = "word", []
            return 0
        else:
            self.is_broken = True
            return 1
        self._write(mark)
        return 1

    def _close(self, mark: str) -> None:
        self._open.pop()
        self._next = "after"
        self._write(mark)
        if len(self._open) < self._copy_level:
            self._copy = None

    def _hold(self, text: str) -> None:
        if self._copy is not None and text:
            self._held.append(text)

    def _write(self, text: str) -> None:
        if self._copy is not None:
            self._copy += [*self._held, text]
            self._held.clear()


def _escaped(control: re.Match[str]) -> str:
    return json.dumps(control[0])[1:-1]


def _finite(word: str) -> str:
    """Quoted if `read_json` reads it as text: JSON has no such number."""
    if word[-1].isalpha():
        is_text = word not in ("true", "false", "null")
    elif word.lstrip("-").isdigit():
        is_text = isinstance(integer_or_text(word), str)
    else:
        is_text = isinstance(finite_or_text(word), str)
    return f'"{word}"' if is_text else word
