"""An answer's text as tags, in one pass: the markup of Qwen3.5's templates, and Hermes calls.

    <tool_call>                      <tool_call>
    <function=get_weather>           {"name": "get_weather", "arguments": {"city": "Paris"}}
    <parameter=city>                 </tool_call>
    Paris
    </parameter>
    </function>
    </tool_call>

A tag states its kind and its position in the line. `reading.py` decides whether it means anything:
a model may also write about tags.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from segue.answers.tool_calls.literals import (
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
# A name may hold a "<" unless it starts one of our tags.
_NAME = r"(?:[^<>\n]|<(?!/?(?:tool_call|function|parameter|think)\b)){1,256}"
_TAG = re.compile(
    rf"</?(?:tool_call|think)>|</(?:function|parameter)>|<(function|parameter)=({_NAME})>"
)
_PARTIAL_TAG = re.compile(r"</?[a-z_]*(?:=[^<>\n]*)?\Z")
_BETWEEN = re.compile(r"[\s,]*")
_END = re.compile(r"[\s}]*" + _CLOSING)
"""The end of a JSON call, possibly with extra braces."""
_NUM_INDENT = 64
_DECODER = json.JSONDecoder(
    strict=False,
    parse_constant=str,
    parse_float=finite_or_text,
    parse_int=integer_or_text,
)


@dataclass(frozen=True, slots=True)
class Tag:
    """`text[start:end]`. `is_next` means that only whitespace separates it from the tag before."""

    kind: Kind
    start: int
    end: int
    is_next: bool
    starts_line: bool
    ends_line: bool
    name: str = ""
    arguments: dict[str, Json] | None = None
    """The arguments of a Hermes call, which is one tag from <tool_call> to </tool_call>. If there
    are several calls in between, the first includes the opening tag and the last the closing one.
    """


def read_tags(text: str) -> Iterator[Tag]:
    hermes = _Hermes(text)
    end = 0
    while found := _TAG.search(text, end):
        start, before = found.start(), end
        kind, name, end = _kind(found), (found[2] or "").strip(), found.end()
        calls = hermes.read(end) if kind == "<tool_call>" else []
        if not calls:
            yield _tag(text, kind, start, end, before, name)
        for call in calls:
            end = call.end
            yield _tag(text, "hermes", start, end, before, call.name, call.arguments)
            start = before = end


def _tag(
    text: str,
    kind: Kind,
    start: int,
    end: int,
    before: int,
    name: str,
    arguments: dict[str, Json] | None = None,
) -> Tag:
    return Tag(
        kind=kind,
        start=start,
        end=end,
        is_next=not text[before:start].strip(),
        starts_line=_starts_line(text, start),
        ends_line=text.startswith(("\n", "\r\n"), end),
        name=name,
        arguments=arguments,
    )


def breaks_off(text: str) -> bool:
    """Whether the text ends in the middle of a tag."""
    last = text.rfind("<", max(0, len(text) - 300))
    return last >= 0 and _PARTIAL_TAG.match(text, last) is not None


def _kind(found: re.Match[str]) -> Kind:
    kind: Kind = f"<{found[1]}>" if found[1] else found[0]  # type: ignore[assignment]  # the pattern has no others
    return kind


def _starts_line(text: str, start: int) -> bool:
    indent = text[max(0, start - _NUM_INDENT) : start].rpartition("\n")
    return not indent[2].strip() and (bool(indent[1]) or start <= _NUM_INDENT)


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    arguments: dict[str, Json]
    end: int


class _Hermes:
    """Reads calls in JSON. Each attempt reads ahead from a tag. A budget bounds the total, so that
    a text of many opening tags does not cost quadratic time.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._budget = 4 * len(text) + 10_000

    def read(self, start: int) -> list[_Call]:
        """The calls that start after the tag: usually one, possibly none."""
        calls: list[_Call] = []
        while self._budget > 0:
            start = _skip(_BETWEEN, self._text, start)
            if not self._text.startswith(("{", "["), start):
                break
            value, end = self._read_value(start)
            found = [_call(one, end) for one in (value if isinstance(value, list) else [value])]
            read = [one for one in found if one is not None]
            if not read or len(read) < len(found):
                self._budget -= end - start
                break
            calls += read
            if closing := _END.match(self._text, end):
                calls[-1] = replace(calls[-1], end=closing.end())
                break
            start = end
        return calls

    def _read_value(self, start: int) -> tuple[Json, int]:
        """The value and its end; None if it is not a value."""
        try:
            value, end = _DECODER.raw_decode(self._text, start)
            check_expressible(value)
        except json.JSONDecodeError as error:
            self._budget -= error.pos - start
            return self._read_python(start)
        except (RecursionError, NotALiteral):
            self._budget -= len(self._text) // 4
            return None, start
        return value, end

    def _read_python(self, start: int) -> tuple[Json, int]:
        """A Python literal, or JSON with mistakes; it must have a closing tag. The last braces may
        be missing.
        """
        end = self._text.find(_CLOSING, start, start + self._budget)
        self._budget -= (end if end >= 0 else len(self._text)) - start
        if end < 0:
            return None, start
        text = self._text[start:end].strip()
        for missing in ("", "}", "}}"):
            with contextlib.suppress(NotALiteral):
                return read_python(text + missing), end
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
    if not isinstance(name, str) or not name.strip() or not isinstance(arguments, dict):
        return None
    return _Call(name.strip(), arguments, end)


def _arguments(text: str) -> Json:
    """For a call whose arguments are a string of JSON, as in OpenAI's format."""
    if not text.strip():
        return None
    for read in (read_json, read_python):
        with contextlib.suppress(NotALiteral):
            return read(text)
    return text


def _skip(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start
