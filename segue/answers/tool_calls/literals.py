"""JSON and Python literals, as models write them. Every result can be written as JSON."""

from __future__ import annotations

import json
import math
import re
import sys
from typing import TypeAlias

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

MAX_NESTING = 64
"""Levels of lists and objects in one value. A conversation accepts 100 in a whole call."""

# Python refuses to parse or print longer integers in decimal.
_MAX_INTEGER_DIGITS = 4000
_DIGITS = r"\d+(?:_\d+)*"
_NUMBER = re.compile(rf"[+-]?(?:{_DIGITS}\.?(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][+-]?\d+)?\Z")
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}
_BRACKETS = {"(": "[", ")": "]"}
_PYTHON_TOKEN = re.compile(
    r"""(?: (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
          | (?P<odd>-?inf\b|nan\b)
          | (?P<number>-?\d+(?:_\d+)*(?:\.\d+)?)
          | (?P<word>[A-Za-z_]\w*)
        ) (?P<key>\s*:)?
      | (?P<comma>,)\s*(?=[\])}])
      | (?P<mark>[()])
      | (?P<other>[^"'A-Za-z_(),\d-]+|[,-])""",
    re.VERBOSE | re.DOTALL,
)

_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED = {
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "a": "\a",
    "\n": "",
} | {one: one for one in "\\/'\""}


class NotALiteral(ValueError):
    """The text is not such a literal, or JSON cannot express it."""


def read_json(text: str) -> Json:
    """Raises NotALiteral. A non-finite number, which JSON lacks, stays text."""
    try:
        value: Json = json.loads(
            text,
            strict=False,
            parse_constant=str,
            parse_float=finite_or_text,
            parse_int=integer_or_text,
        )
    except (ValueError, RecursionError) as error:
        raise NotALiteral(str(error)) from None
    check_expressible(value)
    return value


def read_python(text: str) -> Json:
    """A literal as Python prints it: True, None, 'a', (1, 2), {'a': [1,], 2: nan}. Keys that are
    not strings become strings, as in Python's `json`. Raises NotALiteral.
    """
    return read_json(_python_as_json(text))


def read_number(text: str) -> int | float:
    """A decimal number in any language's notation, such as 007, +5, 3. and 1_000. Raises
    NotALiteral.
    """
    stripped = text.strip()
    if not _NUMBER.match(stripped) or len(stripped) > _MAX_INTEGER_DIGITS:
        raise NotALiteral("not a decimal number")
    if stripped.lstrip("+-").replace("_", "").isdigit():
        return int(stripped)
    number = float(stripped)
    if not math.isfinite(number):
        raise NotALiteral("too large for a JSON number")
    return number


def check_expressible(value: Json) -> None:
    """Raises NotALiteral if a value nests too deep, or has a lone surrogate, which UTF-8 cannot
    encode.
    """
    level = [value]
    for _ in range(MAX_NESTING + 1):
        below: list[Json] = []
        for one in level:
            if isinstance(one, dict):
                _check_texts(one)
                below += one.values()
            elif isinstance(one, list):
                below += one
            elif isinstance(one, str):
                _check_texts((one,))
        if not below:
            return
        level = below
    raise NotALiteral(f"nests more than {MAX_NESTING} levels deep")


def _check_texts(texts: dict[str, Json] | tuple[str]) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise NotALiteral(str(error)) from None


def finite_or_text(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def integer_or_text(text: str) -> int | str:
    return int(text) if len(text) <= _MAX_INTEGER_DIGITS else text


def _python_as_json(text: str) -> str:
    translated = []
    position = 0
    while position < len(text):
        found = _PYTHON_TOKEN.match(text, position)
        if found is None:
            raise NotALiteral(f"unterminated string from character {position} on")
        translated.append(_translated(found))
        position = found.end()
    return "".join(translated)


def _translated(found: re.Match[str]) -> str:
    key = found["key"] or ""
    if found["string"]:
        return json.dumps(_string(found["string"])) + key
    if found["odd"]:
        return json.dumps(found["odd"]) + key
    value = (found["number"] or "").replace("_", "") or _PYTHON_WORDS.get(found["word"])
    if value:
        return f'"{value}"{key}' if key else value
    if found["mark"]:
        return _BRACKETS[found[0]]
    # Python allows a comma before a closing bracket; JSON does not.
    return "" if found["comma"] else found[0]


def _string(literal: str) -> str:
    return _ESCAPE.sub(_unescaped, literal[1:-1])


def _unescaped(found: re.Match[str]) -> str:
    escape = found[0]
    if len(escape) == 2:
        return _ESCAPED.get(escape[1], escape)
    code = int(escape[2:], 16)
    return chr(code) if code <= sys.maxunicode else escape
