"""Whatever a grammar allows is valid, for schemas and for calls in both formats."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from segue.answers import AnswerParser, gather
from segue.api.errors import InvalidRequest
from segue.api.types import JsonObject, JsonSchema, ToolCalls
from segue.grammar.build import GrammarSpec, build
from segue.grammar.compiler import GrammarCompiler
from segue.text.tokens.tokenizer import Tokenizer
from tests.grammar.conftest import VOCAB_SIZE
from tests.grammar.schemas import random_schema
from tests.grammar.walks import random_answer

LOOK = {
    "type": "object",
    "properties": {
        "where": {"type": "string"},
        "limit": {"type": ["integer", "null"], "minimum": 1, "maximum": 50},
        "kind": {"enum": ["a b", "c", 3, None, True]},
        "deep": {"type": "object", "properties": {"x": {"type": "string", "maxLength": 4}}},
        "code": {"type": "string", "minLength": 2, "maxLength": 5},
        "date": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"},
        "many": {"type": "array", "items": {"$ref": "#/$defs/flag"}, "maxItems": 2},
        "either": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "number"}]},
    },
    "required": ["where", "kind"],
    "$defs": {"flag": {"type": "boolean"}},
}


def tool(name: str, parameters: Any) -> str:
    function = {"name": name, "parameters": parameters}
    return json.dumps({"type": "function", "function": function})


TOOLS = (tool("look", LOOK), tool("stop", {"type": "object", "properties": {}}), tool("go", None))


@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(600), marks=pytest.mark.slow)])
def test_walks_through_random_schemas_are_valid(
    seeds: range, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    num = 0
    for seed in seeds:
        schema = random_schema(seed)
        grammar = compiler.compile(
            build(GrammarSpec(output=JsonSchema(json.dumps(schema)))).grammar
        )

        text = random_answer(grammar, tokenizer, VOCAB_SIZE, seed)

        if text is not None:
            num += 1
            jsonschema.validate(json.loads(text), schema)
    assert num > len(seeds) / 2


@pytest.mark.parametrize("call_format", ["qwen3_coder", "hermes"])
@pytest.mark.parametrize("is_single", [True, False])
def test_forced_calls_are_valid_by_their_schemas(
    call_format: str, is_single: bool, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    spec = GrammarSpec(output=ToolCalls(is_single=is_single), tools=TOOLS, call_format=call_format)
    grammar = compiler.compile(build(spec).grammar)
    schemas = {"look": LOOK, "stop": {"maxProperties": 0}, "go": {"type": "object"}}
    nums = []
    for seed in range(30):
        text = random_answer(grammar, tokenizer, VOCAB_SIZE, seed)
        if text is None:
            continue
        parser = AnswerParser(tools=TOOLS, tool_calls=call_format)
        message = gather(parser.push(text) + parser.finish())

        assert not message.content, text
        nums.append(len(message.tool_calls))
        for call in message.tool_calls:
            jsonschema.validate(json.loads(call.arguments or "{}"), schemas[call.name])

    assert len(nums) > 12
    assert set(nums) == {1} if is_single else max(nums) > 1


@pytest.mark.parametrize("call_format", ["qwen3_coder", "hermes"])
def test_forced_calls_of_random_schemas_are_valid(
    call_format: str, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    num = 0
    for seed in range(25):
        schema = random_schema(seed)
        tools = (tool("look", schema),)
        spec = GrammarSpec(output=ToolCalls("look"), tools=tools, call_format=call_format)
        grammar = compiler.compile(build(spec).grammar)
        text = random_answer(grammar, tokenizer, VOCAB_SIZE, seed)
        if text is not None:
            parser = AnswerParser(tools=tools, tool_calls=call_format)
            message = gather(parser.push(text) + parser.finish())
            assert message.tool_calls, text
            for call in message.tool_calls:
                num += 1
                jsonschema.validate(json.loads(call.arguments), schema)
    assert num > 10


def test_an_answer_may_be_calls_or_json(tokenizer: Tokenizer, compiler: GrammarCompiler) -> None:
    output = JsonObject(or_tool_calls=True)
    spec = GrammarSpec(output=output, tools=TOOLS, call_format="qwen3_coder")
    grammar = compiler.compile(build(spec).grammar)

    texts = [random_answer(grammar, tokenizer, VOCAB_SIZE, seed) for seed in range(30)]

    found = {text[0] for text in texts if text}
    assert found == {"<", "{"}


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"properties": {"a": {"type": "string", "pattern": "a.b"}}}, "properties.a.pattern"),
        ({"properties": {"a": {"not": {}}}}, "properties.a.not"),
        ({"type": "string"}, ""),
        ({"properties": {"a": {"enum": ["</parameter>"]}}}, "properties.a"),
    ],
)
def test_parameters_that_no_call_can_have_are_refused_with_their_path(
    parameters: Any, path: str
) -> None:
    spec = GrammarSpec(
        output=ToolCalls(), tools=(TOOLS[1], tool("a", parameters)), call_format="qwen3_coder"
    )

    with pytest.raises(InvalidRequest) as raised:
        build(spec)

    assert raised.value.field == ".".join(filter(None, ("tools[1].function.parameters", path)))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (GrammarSpec(output=ToolCalls(), call_format="hermes"), "a chat with tools"),
        (
            GrammarSpec(output=ToolCalls("x"), tools=TOOLS, call_format="hermes"),
            "one of look, stop, go",
        ),
        (GrammarSpec(output=ToolCalls(), tools=TOOLS), "in a known format"),
        (
            GrammarSpec(output=ToolCalls(), tools=(tool("a>b", {}),), call_format="qwen3_coder"),
            "rename the tool",
        ),
    ],
)
def test_calls_that_cannot_be_made_are_refused(spec: GrammarSpec, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        build(spec)
