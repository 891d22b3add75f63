"""Calls in JSON between <tool_call> and </tool_call>, as Hermes has them.

A call counts once its JSON is complete. JSON with mistakes, or a Python literal, must end at its
closing tag, with no other opening tag before it.

The first call is open as soon as its arguments have started, if its name comes before them, as
templates write it: its arguments are then emitted as they arrive. If that call is not completed, or
turns out to be something else (it has two names, for example), none of it was a call.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from segue.answers.growing_text import GrowingText
from segue.answers.tool_calls.json_scanner import JsonScanner
from segue.answers.tool_calls.literals import Json, NotALiteral, read_json, read_python

_CLOSING = "</tool_call>"
_EITHER_TAG = re.compile(r"</?tool_call>")
_BETWEEN = re.compile(r"[\s,]*")
_EXTRA = re.compile(r"[\s}]*")
"""Text that is allowed between a call and its closing tag."""
_OPENING = re.compile(
    r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*\{', re.DOTALL
)
_ARGUMENTS_LEVEL = 2


@dataclass(slots=True)
class OpenCall:
    """A call whose arguments have started."""

    name: str
    pieces: list[str] = field(default_factory=list)
    """The arguments so far, as JSON."""

    def complete(self, call: HermesCall, closing: str) -> bool:
        """Whether `call` is this call. If so, completes the pieces: with the `closing` brackets, or
        with the rest of the arguments in the usual form of JSON.
        """
        if call.name != self.name:
            return False
        text = "".join(self.pieces)
        with contextlib.suppress(NotALiteral):
            if read_json(text + closing) == call.arguments:
                self.pieces.append(closing)
                return True
        usual = json.dumps(call.arguments, ensure_ascii=False, allow_nan=False)
        if usual.startswith(text):
            self.pieces.append(usual.removeprefix(text))
            return True
        return False


@dataclass(frozen=True, slots=True)
class HermesCall:
    name: str
    arguments: dict[str, Json]
    end: int


class HermesCalls:
    """The calls that start after an opening tag: usually one, possibly none."""

    def __init__(self, text: GrowingText, start: int) -> None:
        self.calls: list[HermesCall] = []
        self.open_call: OpenCall | None = None
        """The first call, once its arguments have started. It was not a call if `calls` stays
        empty."""
        self.is_done = False
        self.position = start
        """The position from which reading continues."""
        self._text = text
        self._value_start = start
        self._json = JsonScanner()
        self._stop_level = 0
        self._read: Callable[[bool], bool] = self._between

    def read(self, *, is_end: bool) -> None:
        """Reads the added text. `is_end`: no more will be added."""
        while not self.is_done and self._read(is_end):
            pass

    # Each of these reads one piece, and returns whether reading can continue.

    def _between(self, is_end: bool) -> bool:
        text, index = self._text.at(self.position)
        skipped = _BETWEEN.match(text, index)
        assert skipped is not None
        self.position += skipped.end() - index
        if skipped.end() == len(text):
            self.is_done = is_end
            return False
        if text[skipped.end()] not in "{[":
            return self._finish()
        self._value_start, self._json = self.position, JsonScanner()
        self._stop_level = 0 if self.calls else _ARGUMENTS_LEVEL
        self._read = self._value
        return True

    def _value(self, is_end: bool) -> bool:
        text, index = self._text.at(self.position)
        end = self._json.scan(text, index, stop_level=self._stop_level)
        self.position += (len(text) if end is None else end) - index
        if self._json.is_broken or (end is None and is_end):
            self.position, self._read = self._value_start, self._slip
            return True
        if end is None:
            return False
        if self._json.level:
            self._stop_level = 0
            self._open_call()
            return True
        try:
            value = read_json(self._text.cut(self._value_start, self.position))
        except NotALiteral:
            return self._finish()
        return self._add(value)

    def _open_call(self) -> None:
        """The first list or object inside the value starts here."""
        found = _OPENING.fullmatch(self._text.cut(self._value_start, self.position))
        if found is None:
            return
        with contextlib.suppress(NotALiteral):
            name = read_json(found[1])
            if isinstance(name, str) and name.strip():
                self.open_call = OpenCall(name.strip())
                self._json.copy_to(self.open_call.pieces)

    def _slip(self, is_end: bool) -> bool:
        """Reads malformed JSON up to a closing tag: the last braces may be missing."""
        text, index = self._text.at(self.position)
        tag = _EITHER_TAG.search(text, index)
        if tag is None and not is_end:
            self.position += max(0, len(text) - index - len(_CLOSING))
            return False
        if tag is None or tag[0] != _CLOSING:
            return self._finish()
        self.position += tag.start() - index
        literal = self._text.cut(self._value_start, self.position).strip()
        for missing in ("", "}", "}}"):
            with contextlib.suppress(NotALiteral):
                return self._add(read_python(literal + missing))
        return self._finish()

    def _add(self, value: Json) -> bool:
        """The value that ends here is a call, or a list of calls."""
        values = value if isinstance(value, list) else [value]
        found = [_call(one, self.position) for one in values]
        calls = [one for one in found if one is not None]
        if not calls or len(calls) < len(found):
            return self._finish()
        if self.open_call is not None and not self.calls:
            closing = self._json.closing(_ARGUMENTS_LEVEL)
            if not self.open_call.complete(calls[0], closing):
                return self._finish()
        self.calls += calls
        self._read = self._after
        return True

    def _after(self, is_end: bool) -> bool:
        text, index = self._text.at(self.position)
        extra = _EXTRA.match(text, index)
        assert extra is not None
        rest = text[extra.end() : extra.end() + len(_CLOSING)]
        if rest == _CLOSING:
            end = self.position + extra.end() - index + len(_CLOSING)
            self.calls[-1] = replace(self.calls[-1], end=end)
            return self._finish()
        if not is_end and _CLOSING.startswith(rest):
            self.position += extra.end() - index
            return False
        self.position, self._read = self.calls[-1].end, self._between
        return True

    def _finish(self) -> bool:
        self.is_done = True
        return False


def _call(value: Json, end: int) -> HermesCall | None:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        return None
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = _arguments(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(name, str) or not name.strip() or not isinstance(arguments, dict):
        return None
    return HermesCall(name.strip(), arguments, end)


def _arguments(text: str) -> Json:
    """For a call whose arguments are a string of JSON, as in OpenAI's format."""
    if not text.strip():
        return None
    for read in (read_json, read_python):
        with contextlib.suppress(NotALiteral):
            return read(text)
    return text
