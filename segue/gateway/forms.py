"""The form that a request wants its answer to have: formats, forced calls, and their fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from segue.api.checks import what_came
from segue.api.errors import InvalidRequest
from segue.api.types import (
    Choice,
    Ebnf,
    JsonObject,
    JsonSchema,
    OutputFormat,
    Regex,
    ToolCalls,
)
from segue.sdk.chat_json import to_json

EXTENSIONS = "json, regex, choice, grammar (EBNF) or json_object"


class Asked(NamedTuple):
    """A form, and the field that asks for it."""

    output: OutputFormat
    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    output: OutputFormat | None = None
    field: str = ""
    """What asks for it, as errors name it."""
    may_call: bool = True
    """Calls of tools count as calls."""

    def in_words_of_request(self, error: Exception) -> Exception:
        """The error of a form, with the request's field in place of the router's."""
        if not isinstance(error, InvalidRequest) or not error.field.startswith("output"):
            return error
        inside = error.field.split(".")[2:]
        message = str(error).removeprefix(f"{error.field}: ").removeprefix("output: ")
        return InvalidRequest.at(".".join((self.field, *inside)), message)


def form_of(formats: Sequence[Asked | None], choice: str | ToolCalls, *, has_tools: bool) -> Form:
    """`choice`: auto, none, or the calls that must be made, which then are the whole answer. Raises
    InvalidRequest.
    """
    if isinstance(choice, ToolCalls):
        if not has_tools:
            raise InvalidRequest.at("tool_choice", "expected tools with it, got none: add them")
        return Form(output=choice, field="tool_choice")
    asked = [one for one in formats if one is not None]
    if len(asked) > 1:
        raise InvalidRequest.at(asked[1].field, f"expected one form, got {asked[0].field} as well")
    may_call = choice == "auto"
    if not asked:
        return Form(may_call=may_call)
    ((output, field),) = asked
    return Form(
        output=replace(output, or_tool_calls=may_call and has_tools),
        field=field,
        may_call=may_call,
    )


def openai_choice(tool_choice: object, *, is_single: bool) -> str | ToolCalls:
    """Of chat completions and responses. Raises InvalidRequest."""
    match tool_choice:
        case None | "auto":
            return "auto"
        case "none":
            return "none"
        case "required":
            return ToolCalls(is_single=is_single)
        case {"type": "function", "function": {"name": str(name)}}:
            return ToolCalls(name, is_single=is_single)
        case {"type": "function", "name": str(name)}:
            return ToolCalls(name, is_single=is_single)
        case _:
            raise InvalidRequest.at(
                "tool_choice",
                'expected "auto", "none", "required" or a named function, got '
                f"{what_came(tool_choice)}",
            )


def json_format(value: object, field: str, *, inside: str = "") -> Asked | None:
    """OpenAI's formats; None for text. `inside`: the member that holds a schema's description.
    Raises InvalidRequest.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidRequest.at(field, f"expected an object with a type, got {what_came(value)}")
    match value.get("type"):
        case "text":
            return None
        case "json_object":
            return Asked(JsonObject(), field)
        case "json_schema":
            described: Any = value.get(inside) if inside else value
            where = f"{field}.{inside}" if inside else field
            if not isinstance(described, Mapping):
                raise InvalidRequest.at(
                    where, f"expected an object with a schema, got {described!r:.80}"
                )
            return schema_of(described.get("schema"), f"{where}.schema")
        case kind:
            raise InvalidRequest.at(
                f"{field}.type", f"expected text, json_object or json_schema, got {kind!r:.80}"
            )


def schema_of(schema: object, field: str) -> Asked:
    """A schema, as JSON or its text. Raises InvalidRequest."""
    if isinstance(schema, str):
        return _made(lambda: JsonSchema(schema), field)
    if isinstance(schema, Mapping | bool):
        return _made(lambda: JsonSchema(to_json(schema)), field)
    raise InvalidRequest.at(field, f"expected a JSON schema, got {what_came(schema)}")


def structured_outputs(value: object) -> Asked | None:
    """vLLM's field. Raises InvalidRequest."""
    field = "structured_outputs"
    if value is None:
        return None
    given = (
        {name: one for name, one in value.items() if one not in (None, False)}
        if isinstance(value, Mapping)
        else {}
    )
    if len(given) != 1 or not given.keys() <= _READERS.keys():
        raise InvalidRequest.at(field, f"expected one of {EXTENSIONS}, got {what_came(value)}")
    ((name, one),) = given.items()
    return _READERS[name](one, f"{field}.{name}")


def guided(name: str, value: object) -> Asked | None:
    """vLLM's older fields, such as guided_json. Raises InvalidRequest."""
    return None if value is None else _READERS[name](value, f"guided_{name}")


def _regex(value: object, field: str) -> Asked:
    return _made(lambda: Regex(_text(value, field)), field)


def _ebnf(value: object, field: str) -> Asked:
    return _made(lambda: Ebnf(_text(value, field)), field)


def _choice(value: object, field: str) -> Asked:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InvalidRequest.at(field, f"expected a list of texts, got {what_came(value)}")
    return _made(lambda: Choice(tuple(value)), field)


def _object(value: object, field: str) -> Asked:
    if value is not True:
        raise InvalidRequest.at(field, f"expected true, got {what_came(value)}")
    return Asked(JsonObject(), field)


_READERS = {
    "json": schema_of,
    "regex": _regex,
    "grammar": _ebnf,
    "choice": _choice,
    "json_object": _object,
}


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest.at(field, f"expected a text, got {what_came(value)}")
    return value


def _made(make: Any, field: str) -> Asked:
    """Names the request's field in errors about a size."""
    try:
        return Asked(make(), field)
    except InvalidRequest as error:
        raise Form(field=field).in_words_of_request(error) from None
