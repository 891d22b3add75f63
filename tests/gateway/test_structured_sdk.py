"""Structured output and forced calls through the SDKs, against a running cluster."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.gateway.conftest import Live

pytestmark = pytest.mark.asyncio(loop_scope="session")

WHO: Any = [{"role": "user", "content": "My name is Anna and I live in Lisbon."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Lisbon", "Porto"]},
        "age": {"type": "integer", "minimum": 1, "maximum": 120},
        "code": {"type": "string", "pattern": "^[a-c]{3}$"},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
    },
    "required": ["city", "age", "code", "tags"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city", "unit"],
        },
    },
}


async def completed(live: Live, **fields: Any) -> ChatCompletion:
    answer = await live.openai.chat.completions.create(
        **{"model": "demo", "messages": WHO, "max_tokens": 200, **fields}
    )
    assert isinstance(answer, ChatCompletion)
    return answer


async def test_an_answer_is_valid_by_its_schema(live: Live) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "who", "schema": SCHEMA}}
    for temperature in (0.0, 0.9):
        answer = await completed(
            live, response_format=response_format, temperature=temperature, seed=5
        )

        assert answer.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(answer.choices[0].message.content or ""), SCHEMA)


async def test_responses_and_messages_have_schemas_too(live: Live) -> None:
    described: Any = {"format": {"type": "json_schema", "name": "who", "schema": SCHEMA}}
    response = await live.openai.responses.create(model="demo", input=WHO, text=described)
    message = await live.http.post(
        "/v1/messages",
        json={
            "model": "demo",
            "max_tokens": 200,
            "messages": WHO,
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        },
    )

    jsonschema.validate(json.loads(response.output_text), SCHEMA)
    jsonschema.validate(json.loads(message.json()["content"][0]["text"]), SCHEMA)


async def test_a_choice_is_one_of_the_texts(live: Live) -> None:
    choice = await completed(live, extra_body={"guided_choice": ["Porto", "Lisbon"]})
    text = await live.openai.completions.create(
        model="demo",
        prompt="My city is",
        max_tokens=20,
        extra_body={"structured_outputs": {"regex": "[0-9]{4}"}},
    )

    assert choice.choices[0].message.content in ("Porto", "Lisbon")
    assert text.choices[0].text.isdigit()


@pytest.mark.parametrize("tool_choice", ["required", {"type": "function", "function": {}}])
async def test_a_forced_call_is_made(live: Live, tool_choice: Any) -> None:
    """Although nobody asked about the weather."""
    if not isinstance(tool_choice, str):
        tool_choice["function"]["name"] = "get_weather"
    answer = await completed(
        live, tools=[WEATHER], tool_choice=tool_choice, parallel_tool_calls=False
    )

    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
    assert not answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "tool_calls"


async def test_a_schema_that_cannot_be_enforced_is_a_400_that_says_where(live: Live) -> None:
    schema: Any = {"type": "object", "properties": {"a": {"items": {"not": {"type": "null"}}}}}
    with pytest.raises(openai.BadRequestError) as raised:
        await completed(live, extra_body={"guided_json": schema})

    assert raised.value.param == "guided_json.properties.a.items.not"
    assert "cannot be enforced" in raised.value.message


async def test_an_answer_is_not_shorter_than_asked(live: Live) -> None:
    short = await completed(live)
    longer = await completed(live, extra_body={"min_tokens": 60})

    assert short.usage is not None
    assert longer.usage is not None
    assert short.usage.completion_tokens < 60 <= longer.usage.completion_tokens
