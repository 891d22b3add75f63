"""An answer's text as tags, in one pass: the markup of Qwen3.5's templates, and Hermes calls.

    <tool_call>                      <tool_call>
    <function=get_weather>           {"name": "get_weather", "arguments": {"city": "Paris"}}
    <parameter=city>                 </tool_call>
    Paris
    </parameter>
    </function>
    </tool_call>

A tag says what it is and how it stands in its line. Whether it means anything is `reading.py`'s
affair: a model may also write about tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from segue.tool_calls.literals import (
    Json,
    NotALiteral,
    check_expressible,
    finite_or_text,
    integer_or_text,
    read_json,
    read_python,
)

Kind: TypeAlias = Literal[
    "<tool_call>",
    "</tool_call>",
    "<function>",
    "</function>",
    "<parameter>",
    "</parameter>",
    "<think>",
    "</think>",
    "hermes",
]

_CLOSING = "</tool_call>"
# A name may hold a "<" unless that begins a tag of ours.
_NAME = r"(?:[^<>\n]|<(?!/?(?:tool_call|function|parameter|think)\b)){1,256}"
_TAG = re.compile(
    rf"</?(?:tool_call|think)>|</(?:function|parameter)>|<(function|parameter)=({_NAME})>"
)
_BEGINNING = re.compile(r"</?[a-z_]*(?:=[^<>\n]*)?\Z")
_SPACE = re.compile(r"\s*")
_NUM_INDENT = 64
_DECODER = json.JSONDecoder(
    strict=False,
    parse_constant=str,
    parse_float=finite_or_text,
    parse_int=integer_or_text,
)


@dataclass(frozen=True, slots=True)
class Tag:
    """`text[start:end]`. Whether it `is_next` says that only space lies between it and the tag
    before.
    """

    kind: Kind
    start: int
    end: int
    is_next: bool
    begins_line: bool
    ends_line: bool
    name: str = ""
    arguments: dict[str, Json] | None = None
    """Of a Hermes call, which is one tag from <tool_call> to </tool_call>."""


def read_tags(text: str) -> Iterator[Tag]:
    hermes = _Hermes(text)
    end = 0
    while found := _TAG.search(text, end):
        start, before = found.start(), end
        kind, name, arguments, end = _kind(found), (found[2] or "").strip(), None, found.end()
        if kind == "<tool_call>" and (call := hermes.read(end)):
            kind, name, arguments, end = "hermes", call.name, call.arguments, call.end
        yield Tag(
            kind=kind,
            start=start,
            end=end,
            is_next=not text[before:start].strip(),
            begins_line=_begins_line(text, start),
            ends_line=text.startswith(("\n", "\r\n"), end),
            name=name,
            arguments=arguments,
        )


def breaks_off(text: str) -> bool:
    """Whether the text ends in the middle of a tag."""
    last = text.rfind("<", max(0, len(text) - 300))
    return last >= 0 and _BEGINNING.match(text, last) is not None


def _kind(found: re.Match[str]) -> Kind:
    kind: Kind = f"<{found[1]}>" if found[1] else found[0]  # type: ignore[assignment]  # the pattern has no others
    return kind


def _begins_line(text: str, start: int) -> bool:
    indent = text[max(0, start - _NUM_INDENT) : start].rpartition("\n")
    return not indent[2].strip() and (bool(indent[1]) or start <= _NUM_INDENT)


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    arguments: dict[str, Json]
    end: int


class _Hermes:
    """Reads calls in JSON. Each attempt reads on from a tag, so what all of them read together has
    a bound: a text of nothing but beginnings must not cost its square.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._budget = 4 * len(text) + 10_000

    def read(self, start: int) -> _Call | None:
        """The call that begins behind the tag, if one does."""
        start = _skip_space(self._text, start)
        if not self._text.startswith("{", start) or self._budget <= 0:
            return None
        try:
            value, end = _DECODER.raw_decode(self._text, start)
            check_expressible(value)
        except json.JSONDecodeError as error:
            self._budget -= error.pos - start
            value, end = self._read_python(start)
        except (RecursionError, NotALiteral):
            self._budget -= len(self._text) // 4
            return None
        closing = _skip_space(self._text, end)
        if self._text.startswith(_CLOSING, closing):
            end = closing + len(_CLOSING)
        return _call(value, end)

    def _read_python(self, start: int) -> tuple[Json, int]:
        """As Python prints it, or JSON with slips, which must have a closing tag."""
        end = self._text.find(_CLOSING, start, start + self._budget)
        self._budget -= (end if end >= 0 else len(self._text)) - start
        if end < 0:
            return None, start
        try:
            return read_python(self._text[start:end].strip()), end
        except NotALiteral:
            return None, start


def _call(value: Json, end: int) -> _Call | None:
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
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return _Call(name, arguments, end)


def _arguments(text: str) -> Json:
    """Of a call whose arguments are JSON once more, as in OpenAI's format."""
    try:
        return read_json(text) if text.strip() else None
    except NotALiteral:
        return text


def _skip_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    assert found is not None
    return found.end()
