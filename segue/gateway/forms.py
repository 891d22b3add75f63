"""Structured output: formats and forced calls, with the fields that ask for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from segue.gateway.http.fields import member, typed
from segue.sdk.chat_json import to_json

EXTENSIONS = "json, regex, choice, grammar (EBNF) or json_object"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    output: OutputFormat | None = None
    field: str = ""
    """The field that asks for it, for errors."""
    may_call: bool = True
    """Tool calls in the answer are parsed as calls."""

    def in_words_of_request(self, error: Exception) -> Exception:
        """The error, with the request's field in place of the router's."""
        if not isinstance(error, InvalidRequest) or not error.field.startswith("output"):
            return error
        inside = error.field.split(".")[2:]
        message = str(error).removeprefix(f"{error.field}: ").removeprefix("output: ")
        return InvalidRequest.at(".".join((self.field, *inside)), message)


def form_of(formats: Sequence[Form | None], choice: str | ToolCalls, *, has_tools: bool) -> Form:
    """`choice`: auto, none, or forced calls, which are then the whole answer. Raises
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
    form = replace(asked[0] if asked else Form(), may_call=may_call)
    if form.output is None:
        return form
    return replace(form, output=replace(form.output, or_tool_calls=may_call and has_tools))


def json_format(value: object, field: str, *, inside: str = "") -> Form | None:
    """OpenAI's formats; None for text. `inside`: the member that holds a schema's description.
    Raises InvalidRequest.
    """
    if value is None:
        return None
    given = typed(value, dict, field)
    match given.get("type"):
        case "text":
            return None
        case "json_object":
            return Form(output=JsonObject(), field=field)
        case "json_schema":
            where = f"{field}.{inside}" if inside else field
            described = member(given, inside, dict, field) if inside else given
            return schema_of(described.get("schema"), f"{where}.schema")
        case kind:
            raise InvalidRequest.at(
                f"{field}.type", f"expected text, json_object or json_schema, got {kind!r:.80}"
            )


def schema_of(schema: object, field: str) -> Form:
    """A schema, as JSON or its text. Raises InvalidRequest."""
    if isinstance(schema, str):
        return _made(JsonSchema, schema, field)
    if isinstance(schema, Mapping | bool):
        return _made(JsonSchema, to_json(schema), field)
    raise InvalidRequest.at(field, f"expected a JSON schema, got {what_came(schema)}")


def structured_outputs(value: object) -> Form | None:
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


def guided(name: str, value: object) -> Form | None:
    """vLLM's older fields, such as guided_json. Raises InvalidRequest."""
    return None if value is None else _READERS[name](value, f"guided_{name}")


def _regex(value: object, field: str) -> Form:
    return _made(Regex, typed(value, str, field), field)


def _ebnf(value: object, field: str) -> Form:
    return _made(Ebnf, typed(value, str, field), field)


def _choice(value: object, field: str) -> Form:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InvalidRequest.at(field, f"expected a list of texts, got {what_came(value)}")
    return _made(Choice, tuple(value), field)


def _object(value: object, field: str) -> Form:
    if value is not True:
        raise InvalidRequest.at(field, f"expected true, got {what_came(value)}")
    return Form(output=JsonObject(), field=field)


_READERS = {
    "json": schema_of,
    "regex": _regex,
    "grammar": _ebnf,
    "choice": _choice,
    "json_object": _object,
}


def _made(kind: Callable[[Any], OutputFormat], value: object, field: str) -> Form:
    """Names the request's field in errors about a size."""
    try:
        return Form(output=kind(value), field=field)
    except InvalidRequest as error:
        raise Form(field=field).in_words_of_request(error) from None
