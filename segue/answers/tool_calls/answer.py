"""An answer as an assistant message: its text and its calls.

Nothing that a model writes is lost: what is not a call stays text. This includes a call that was
cut off, whose last value may be incomplete, and one that gives a parameter two values. Calls in the
reasoning before the answer do not count.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from segue.answers.tool_calls.literals import Json
from segue.answers.tool_calls.markup import breaks_off, read_tags
from segue.answers.tool_calls.reading import read_calls
from segue.answers.tool_calls.schema import Schemas
from segue.answers.tool_calls.steps import ParsedCall
from segue.answers.tool_calls.values import read_value
from segue.api.types import Message, ToolCall


def read_answer(text: str, tools: Sequence[str], *, is_whole: bool = True) -> Message:
    """An assistant message. `tools` are the tools that could be called, as in `ChatInput`.

    An answer that ended at `max_tokens` is not whole: its last call counts only if it was closed.
    """
    if not tools:
        return Message(role="assistant", content=text)
    known = _Tools(tools)
    is_whole = is_whole and not breaks_off(text)
    read = []
    end = len(text.rstrip())
    for call in read_calls(read_tags(text), known, end=end, is_whole=is_whole):
        arguments = _arguments(call, text, known)
        if arguments is not None:
            read.append((call, ToolCall(name=call.name, arguments=_to_json(arguments))))
    return Message(
        role="assistant",
        content=_content(text, [call for call, _ in read]),
        tool_calls=tuple(called for _, called in read),
    )


def _arguments(call: ParsedCall, text: str, known: _Tools) -> dict[str, Json] | None:
    """None if a parameter has two values: the intended one is unknown."""
    if call.arguments is not None:
        return call.arguments
    schemas = known.schemas(call.name)
    arguments: dict[str, Json] = {}
    for one in call.parameters:
        value = read_value(
            _without_line_ends(text[one.start : one.end]),
            schemas.of_parameter(one.name),
            schemas,
        )
        if one.name in arguments and _to_json(arguments[one.name]) != _to_json(value):
            return None
        arguments[one.name] = value
    return arguments


def _without_line_ends(value: str) -> str:
    """Removes one line break before and after: templates write a value on its own lines."""
    for end in ("\r\n", "\n"):
        if value.startswith(end):
            value = value.removeprefix(end)
            return value.removesuffix("\r\n") if end == "\r\n" else value.removesuffix("\n")
    return value.removesuffix("\n")


def _content(text: str, calls: Iterable[ParsedCall]) -> str:
    """The text around calls. The empty lines in between are the template's."""
    pieces, position = [], 0
    for call in calls:
        pieces.append(text[position : call.start])
        position = call.end
    if position == 0:
        return text
    first, *others = *pieces, text[position:]
    texts = [first.rstrip("\r\n"), *(piece.strip("\r\n") for piece in others)]
    return "\n\n".join(piece for piece in texts if piece.strip())


def _to_json(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


class _Tools:
    """A turn's functions by name."""

    def __init__(self, tools: Sequence[str]) -> None:
        self._functions = dict(map(_function, tools))
        self._schemas: dict[str, Schemas] = {}

    def has_function(self, function: str) -> bool:
        return function in self._functions

    def has_parameter(self, function: str, parameter: str) -> bool:
        schemas = self.schemas(function)
        return schemas.is_open or schemas.of_parameter(parameter) is not None

    def schemas(self, function: str) -> Schemas:
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
