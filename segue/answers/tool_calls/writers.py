"""Writes the content around calls, and the calls' arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator

from segue.answers.growing_text import GrowingText
from segue.answers.parts import CallArguments
from segue.answers.tool_calls.hermes import OpenCall
from segue.answers.tool_calls.literals import Json
from segue.answers.tool_calls.markup import Tag
from segue.answers.tool_calls.values import ToolValues


class Content:
    """The text around calls. The empty lines at a call are the template's: they are left out, and
    an empty line stands between the texts before and after a call.
    """

    def __init__(self) -> None:
        self._num_calls = 0
        self._has_text = False
        """Whether there is any text before the last call, and …"""
        self._has_words = False
        """… after it, other than whitespace."""
        self._space: list[str] = []
        """Whitespace that a call may follow."""
        self._before_call = (False, False, "")

    def add(self, text: str) -> str:
        """Adds text; returns what is certain."""
        words = text.rstrip()
        if not words:
            self._space.append(text)
            return ""
        shown = "".join(self._space) + words
        self._space = [text[len(words) :]]
        if self._num_calls and not self._has_words:
            shown = ("\n\n" if self._has_text else "") + shown.lstrip("\r\n")
        self._has_words = True
        return shown

    def start_call(self) -> str:
        """A call follows; returns the last text before it."""
        space = "".join(self._space)
        last = space.rstrip("\r\n") if self._has_words else ""
        self._before_call = self._has_text, self._has_words, space[len(last) :]
        self._num_calls += 1
        self._has_text, self._has_words = self._has_text or self._has_words, False
        self._space = []
        return last

    def abandon_call(self, text: str) -> str:
        """The last call was only this text."""
        self._num_calls -= 1
        self._has_text, self._has_words, space = self._before_call
        self._space = [space]
        return self.add(text)

    def end(self) -> str:
        """Returns the last text at the end of the answer."""
        if not self._num_calls:
            return "".join(self._space)
        return self.start_call()


class CallWriter:
    """Writes a call's arguments as JSON. `end` is the end of the call, as far as it is known."""

    awaits_end = False
    """The call ends where the next element starts."""

    def __init__(
        self, index: int, tag: Tag, start: int, text: GrowingText, tools: ToolValues
    ) -> None:
        self.index = index
        self.start = start
        self.end = tag.end
        self.contradicts = False
        """A parameter has two values: the intended one is unknown."""
        self._function = tag
        self._text = text
        self._tools = tools
        self._given: dict[str, tuple[int, int]] = {}
        self._name = ""
        self._value_start = 0
        self._written = -1
        """The end of the part of the value that was written; -1 if it is written only when
        complete."""
        self._read = 0

    def start_value(self, name: str, start: int) -> None:
        self._name, self._value_start, self._read = name, start, start
        is_streamed = name not in self._given and self._tools.is_text(self._function.name, name)
        self._written = start if is_streamed else -1

    def read_to(self, end: int) -> Iterator[CallArguments]:
        """The text up to `end` belongs to the value. Whitespace waits: it may precede a tag."""
        if self._written < 0 or end <= self._read:
            return
        words = len(self._text.cut(self._read, end).rstrip())
        self._read, read = end, self._read
        if not words or self.contradicts:
            return
        text = self._text.cut(self._written, read + words)
        if self._written == self._value_start:
            yield self._fragment(f'{self._key()}"{_escaped(_without_first_line_end(text))}')
        else:
            yield self._fragment(_escaped(text))
        self._written = read + words

    def end_value(self, end: int) -> Iterator[CallArguments]:
        name, span = self._name, (self._value_start, end)
        if self.contradicts:
            return
        if name in self._given:
            self.contradicts = self._json(self._given[name]) != self._json(span)
            return
        if self._written > self._value_start:
            rest = self._text.cut(self._written, end)
            has_cr = self._text.cut(self._value_start, self._value_start + 2) == "\r\n"
            rest = rest.removesuffix("\r\n" if has_cr else "\n")
            yield self._fragment(_escaped(rest) + '"')
        else:
            yield self._fragment(self._key() + self._json(span))
        self._written = -1
        self._given[name] = span

    def rest(self) -> str:
        """The text left to write at the call's end."""
        if self._function.open_call is not None:
            return "".join(self._function.open_call.pieces)
        if self._function.arguments is not None:
            return _to_json(self._function.arguments)
        return "}" if self._given else "{}"

    def _key(self) -> str:
        return f"{', ' if self._given else '{'}{_to_json(self._name)}: "

    def _json(self, span: tuple[int, int]) -> str:
        """A value's text as JSON. Templates write a value on its own lines."""
        text = self._text.cut(*span)
        if text.startswith("\r\n"):
            text = text.removeprefix("\r\n").removesuffix("\r\n")
        else:
            text = text.removeprefix("\n").removesuffix("\n")
        return _to_json(self._tools.value(self._function.name, self._name, text))

    def _fragment(self, text: str) -> CallArguments:
        return CallArguments(self.index, text)


class JsonCallWriter:
    """Writes the arguments of a Hermes call that is open. It starts at `start`."""

    contradicts = False

    def __init__(self, index: int, start: int, call: OpenCall) -> None:
        self.index = index
        self.start = start
        self.end = start
        self.awaits_end = True
        """It is not known yet whether the call is complete."""
        self._call = call
        self._num_written = 0

    def read_to(self, end: int) -> Iterator[CallArguments]:
        """The text up to `end` belongs to the call."""
        if rest := self.rest():
            yield CallArguments(self.index, rest)

    def rest(self) -> str:
        new = self._call.pieces[self._num_written :]
        self._num_written += len(new)
        return "".join(new)


def _without_first_line_end(text: str) -> str:
    return text.removeprefix("\r\n" if text.startswith("\r\n") else "\n")


def _escaped(text: str) -> str:
    return _to_json(text)[1:-1]


def _to_json(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
