"""Formats and forced calls of each API, as the forms that the turns get."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.datastructures import Headers

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
from segue.gateway.anthropic.request import MessagesRequest
from segue.gateway.forms import Form
from segue.gateway.http.door import Visit
from segue.gateway.openai.chat_request import ChatRequest
from segue.gateway.openai.completion_request import CompletionRequest
from segue.gateway.openai.responses.request import ResponseRequest
from segue.gateway.openai.responses.tools import read_tools
from segue.gateway.turns import GenerationRequest

VISIT = Visit(request_id="r", turn_id="t", arrived_at=0.0, headers=Headers({}))
HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"é": {"type": "integer"}}}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "look"}}


def chat(**fields: Any) -> GenerationRequest:
    return ChatRequest.model_validate({"messages": HELLO, **fields}).wanted(VISIT, 4)


def response(**fields: Any) -> GenerationRequest:
    body = ResponseRequest.model_validate({"input": "Hello", **fields})
    return body.wanted(VISIT, read_tools(body.tools or ()))


def messages(**fields: Any) -> GenerationRequest:
    body = MessagesRequest.model_validate({"messages": HELLO, "max_tokens": 5, **fields})
    return body.wanted(VISIT)


def as_schema(output: OutputFormat | None) -> Any:
    assert isinstance(output, JsonSchema)
    return json.loads(output.schema)


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, JsonObject()),
        ({"structured_outputs": {"json_object": True}}, JsonObject()),
        ({"structured_outputs": {"regex": "a+", "json": None}}, Regex("a+")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, Choice(("a", "b"))),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, Ebnf('root ::= "a"')),
        ({"guided_json": json.dumps(SCHEMA)}, JsonSchema(json.dumps(SCHEMA))),
        ({"guided_regex": "a+"}, Regex("a+")),
        ({"guided_choice": ["a"]}, Choice(("a",))),
        ({"guided_grammar": 'root ::= "a"'}, Ebnf('root ::= "a"')),
    ],
)
def test_each_format_reaches_the_turn(fields: dict[str, Any], output: OutputFormat | None) -> None:
    assert chat(**fields).form.output == output
    text = CompletionRequest.model_validate({"prompt": "a", **fields})
    assert text.wanted(text.prompts(), VISIT, 4).form.output == output


def test_a_schema_comes_from_the_field_of_each_api() -> None:
    described = {"name": "answer", "strict": True, "schema": SCHEMA}
    asked = [
        chat(response_format={"type": "json_schema", "json_schema": described}),
        chat(structured_outputs={"json": SCHEMA}),
        response(text={"format": {"type": "json_schema", **described}}),
        messages(output_config={"format": {"type": "json_schema", "schema": SCHEMA}}),
    ]

    assert [as_schema(one.form.output) for one in asked] == [SCHEMA] * 4
    assert [one.form.field for one in asked] == [
        "response_format.json_schema.schema",
        "structured_outputs.json",
        "text.format.schema",
        "output_config.format.schema",
    ]


def test_a_call_is_forced_in_the_words_of_each_api() -> None:
    tool = {"name": "look", "input_schema": {"type": "object"}}
    flat = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    once: dict[str, Any] = {"parallel_tool_calls": False}

    assert chat(tools=[LOOK], tool_choice="required").form.output == ToolCalls()
    assert chat(tools=[LOOK], tool_choice=CALL).form.output == ToolCalls("look")
    assert chat(tools=[LOOK], tool_choice="required", **once).form.output == ToolCalls(
        is_single=True
    )
    named = {"type": "function", "name": "look"}
    assert response(tools=[flat], tool_choice=named).form.output == ToolCalls("look")
    assert response(tools=[flat], tool_choice="required").form.output == ToolCalls()
    assert messages(tools=[tool], tool_choice={"type": "any"}).form.output == ToolCalls()
    single = {"type": "tool", "name": "look", "disable_parallel_tool_use": True}
    assert messages(tools=[tool], tool_choice=single).form.output == ToolCalls(
        "look", is_single=True
    )


def test_with_tools_that_may_be_called_a_format_is_only_for_the_answer() -> None:
    format_: Any = {"response_format": {"type": "json_object"}, "tools": [LOOK]}

    assert chat(**format_).form.output == JsonObject(or_tool_calls=True)
    assert chat(**format_, tool_choice="none").form.output == JsonObject()
    assert chat(**format_, tool_choice="required").form.output == ToolCalls()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_regex": "a" * 300_000}, "guided_regex"),
        ({"guided_regex": "a", "guided_json": "{}"}, "guided_regex"),
        ({"tools": [LOOK], "tool_choice": {"type": "function"}}, "tool_choice"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(fields: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        chat(**fields)

    assert raised.value.field == param


def test_an_error_in_a_schema_names_the_requests_own_field() -> None:
    error = InvalidRequest.at("output.json_schema.properties.a", "cannot be enforced")

    renamed = Form(field="guided_json").in_words_of_request(error)

    assert isinstance(renamed, InvalidRequest)
    assert renamed.field == "guided_json.properties.a"
    assert str(renamed) == "guided_json.properties.a: cannot be enforced"
    assert Form().in_words_of_request(other := InvalidRequest("else")) is other
