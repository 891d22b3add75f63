"""Calls in JSON, in the Hermes format."""

from __future__ import annotations

import json

import pytest

from tests.tool_calls.streaming import read_answer
from tests.tool_calls.writing import TOOLS, assistant, called, text_of, written


@pytest.mark.parametrize(
    "json_text",
    [
        '{"name": "find", "arguments": {"text": "a"}}',
        '{"arguments": {"text": "a"}, "name": "find"}',
        '{"name": "find", "arguments": "{\\"text\\": \\"a\\"}"}',
        '{"name": "find", "arguments": "{\'text\': \'a\'}"}',
        '{"name": "find", "parameters": {"text": "a"}}',
        '{"type": "function", "function": {"name": "find", "arguments": {"text": "a"}}}',
        "{'name': 'find', 'arguments': {'text': 'a',}}",
    ],
)
@pytest.mark.parametrize("around", ["\n{}\n</tool_call>", "{}</tool_call>", "\n{}"])
def test_hermes_calls_are_read(json_text: str, around: str) -> None:
    if around == "\n{}" and "'" in json_text:
        around += "</tool_call>"
    assert text_of("<tool_call>" + around.format(json_text)) == "a"


@pytest.mark.parametrize("arguments", ['""', "null", "{}", '"null"', '"{}"'])
def test_a_hermes_call_may_have_no_arguments(arguments: str) -> None:
    answer = f'<tool_call>\n{{"name": "find", "arguments": {arguments}}}\n</tool_call>'

    assert read_answer(answer, TOOLS) == assistant("", called("{}"))


@pytest.mark.parametrize(
    "calls",
    [
        '{"name": "find", "arguments": {"limit": 1}}\n{"name": "g"}',
        '{"name": "find", "arguments": {"limit": 1}},{"name": " g "}',
        '[{"name": "find", "arguments": {"limit": 1}}, {"name": "g"}]',
        "[{'name': 'find', 'arguments': {'limit': 1}}, {'name': 'g'}]",
    ],
)
@pytest.mark.parametrize("end", ["\n</tool_call>", ""])
def test_several_hermes_calls_may_share_their_tags(calls: str, end: str) -> None:
    if not end and "'" in calls:
        end = "</tool_call>"
    message = read_answer(f"Hm.\n<tool_call>\n{calls}{end}\n\nDone.\n{written()}", TOOLS)

    assert message == assistant(
        "Hm.\n\nDone.", called('{"limit": 1}'), called("{}", "g"), called("{}")
    )


@pytest.mark.parametrize("braces", ["", "}", "}}}", "} }\n}"])
def test_a_hermes_call_may_have_a_brace_too_few_or_too_many(braces: str) -> None:
    assert (
        text_of(f'<tool_call>\n{{"name": "find", "arguments": {{"text": "a"{braces}\n</tool_call>')
        == "a"
    )


def test_hermes_arguments_are_their_jsons_values() -> None:
    value = 'a </tool_call> b\n{"name": "g"} "'
    answer = json.dumps({"name": "find", "arguments": {"text": value, "zip": "02134", "n": 4}})

    message = read_answer(f"Hm.\n<tool_call>\n{answer}\n</tool_call>\n{written()}", TOOLS)

    assert message.content == "Hm."
    assert [json.loads(call.arguments) for call in message.tool_calls] == [
        {"text": value, "zip": "02134", "n": 4},
        {},
    ]
