"""Converts a parameter's text to a value that fits its schema.

Templates write strings as they are, and everything else as JSON (Qwen3.5's writes numbers, booleans
and None as Python prints them). One text therefore has several readings, and the schema chooses: a
valid value goes before an invalid one, and among valid ones a narrower type goes before a string,
which is always possible. Without a schema nothing is guessed: 02134 may be a post code.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from segue.answers.tool_calls.literals import Json, NotALiteral, read_json, read_number, read_python
from segue.answers.tool_calls.schema import Kinds, Schema, Schemas, kind_of

_WORDS: dict[str, Json] = {"true": True, "false": False, "null": None, "none": None, "": None}
_NUMBERS = frozenset({"integer", "number"})
_STRICT = (read_json, read_python)
_LENIENT = (read_json, read_python, read_number)
# Beyond this a float no longer identifies one integer.
_MAX_EXACT = 2**53


class ToolValues:
    """A turn's functions by name."""

    def __init__(self, tools: Sequence[str]) -> None:
        self._functions = dict(map(_function, tools))
        self._schemas: dict[str, Schemas] = {}

    def has_function(self, function: str) -> bool:
        return function in self._functions

    def has_parameter(self, function: str, parameter: str) -> bool:
        schemas = self._of(function)
        return schemas.is_open or schemas.of_parameter(parameter) is not None

    def is_text(self, function: str, parameter: str) -> bool:
        """Whether every value of the parameter is a string, whatever its text is."""
        schema = self._of(function).of_parameter(parameter)
        return schema is None or self._of(function).kinds(schema) == {"string"}

    def value(self, function: str, parameter: str, text: str) -> Json:
        schemas = self._of(function)
        return read_value(text, schemas.of_parameter(parameter), schemas)

    def _of(self, function: str) -> Schemas:
        if function not in self._schemas:
            self._schemas[function] = Schemas(self._functions.get(function, {}))
        return self._schemas[function]


def _function(tool: str) -> tuple[str, Mapping[str, Any]]:
    """Name and parameters. The router rejects invalid tools; here they become a tool without a
    name.
    """
    try:
        read = json.loads(tool)
    except (ValueError, RecursionError):
        return "", {}
    function = read.get("function", read) if isinstance(read, dict) else {}
    if not isinstance(function, dict):
        return "", {}
    parameters = function.get("parameters")
    return str(function.get("name", "")), parameters if isinstance(parameters, dict) else {}


def read_value(text: str, schema: Schema | None, schemas: Schemas) -> Json:
    """Never raises: a text without another reading stays a string."""
    if schema is None:
        return text
    kinds = schemas.kinds(schema)
    if kinds == {"string"} or schemas.lists(text, schema):
        return text
    readings = list(_readings(text, kinds))
    for value in readings:
        if kind_of(value) in kinds and schemas.allows(value, schema):
            return value
    return text if "string" in kinds else _nearest(text, readings, kinds)


def _nearest(text: str, readings: list[Json], kinds: Kinds) -> Json:
    """The value if nothing fits the schema: the form that surprises a validator least."""
    for value in readings:
        if kind_of(value) in kinds:
            return value
    for value in readings:
        if isinstance(value, list | dict):
            return value
    if "anything" in kinds:
        return text
    return readings[0] if readings else text


def _readings(text: str, kinds: Kinds) -> Iterator[Json]:
    """Everything that the text may mean besides a string, likeliest first."""
    if "string" in kinds:
        yield from (value for value in _read(text, _STRICT) if _is_written(value, text, kinds))
        return
    for value in _read(text, _LENIENT):
        if isinstance(value, str) and value != text:
            # JSON inside a JSON string.
            yield from _read(value, _LENIENT)
        if isinstance(value, float) and kinds & _NUMBERS == {"integer"}:
            value = _as_integer(value)
        yield value
    word = text.strip().lower()
    if word in _WORDS and kind_of(_WORDS[word]) in kinds:
        yield _WORDS[word]


def _read(text: str, readers: Iterable[Callable[[str], Json]]) -> Iterator[Json]:
    for read in readers:
        with contextlib.suppress(NotALiteral):
            yield read(text)


def _is_written(value: Json, text: str, kinds: Kinds) -> bool:
    """If the schema also allows strings, " 4" and 1.0 are not the integers 4 and 1."""
    if isinstance(value, float) and "number" not in kinds:
        return False
    return isinstance(value, list | dict) or text in (json.dumps(value), str(value))


def _as_integer(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) <= _MAX_EXACT else value
