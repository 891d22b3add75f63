"""Answers that parsers of other servers get wrong, streamed character by character."""

from __future__ import annotations

import json
from typing import Any

import pytest

from segue.answers import (
    AnswerParser,
    CallArguments,
    CallStart,
    ContentText,
    ReasoningText,
    gather,
)
from tests.tool_calls.streaming import streamed
from tests.tool_calls.writing import TOOLS, called, parameter, written

CALL = written(("text", "a"))
SPEC: dict[str, Any] = {"$defs": {"P": {"type": "object"}}, "type": "object"}


def tool(schema: object) -> str:
    parameters = {**SPEC, "properties": {"x": schema}} if schema is not None else {}
    return json.dumps({"type": "function", "function": {"name": "f", "parameters": parameters}})


def call_of(value: str) -> str:
    return f"<tool_call>\n<function=f>\n{parameter('x', value)}</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"anyOf": [{"type": "object"}, {"type": "null"}]}, '{"city": "Paris"}', {"city": "Paris"}),
        ({"anyOf": [{"type": "object"}, {"type": "null"}]}, "null", None),
        ({"type": ["string", "null"]}, "4", "4"),
        ({"type": "string", "nullable": True}, "null", None),
        ({"type": "boolean"}, "True", True),
        ({"type": "number"}, "1e999", "1e999"),
        ({"$ref": "#/$defs/P"}, '{"a": "4"}', {"a": "4"}),
        ({"type": "array"}, "['a', 'b']", ["a", "b"]),
        ({"type": "object"}, '{"a": {"b": "02134"}}', {"a": {"b": "02134"}}),
        ({"type": "STRING"}, "123", "123"),
        ({"type": "string"}, "02134", "02134"),
        (None, "02134", "02134"),
        ({"type": "string"}, "ends with </think> here", "ends with </think> here"),
        ({"type": "string"}, f"Example:\n{call_of('y')}\nend", f"Example:\n{call_of('y')}\nend"),
        ({"type": "string"}, 'if a < b:\n    print("<b>\\n")', 'if a < b:\n    print("<b>\\n")'),
    ],
)
def test_types_follow_the_schema_and_code_stays_an_argument(
    schema: object, text: str, value: object
) -> None:
    message = gather(streamed(call_of(text), tools=[tool(schema)]))

    assert message.content == ""
    assert [json.loads(call.arguments) for call in message.tool_calls] == [{"x": value}]


@pytest.mark.parametrize(
    "answer",
    [
        "<tool_call>\n<function=find>\n<parameter=text>a</parameter>\n</function>\n</tool_call>",
        f"I look.\n\n{CALL.removeprefix('<tool_call>')}",
        f"{CALL}\n\nDone.",
        f"I use the <tool_call> tag now.\n\n{CALL}",
        CALL.replace("</function>\n", ""),
        CALL.replace("</parameter>\n", ""),
        '<tool_call>\n{"name": "find", "arguments": {"text": "a"}}\n</tool_call>',
    ],
)
def test_a_call_is_not_left_as_text(answer: str) -> None:
    assert gather(streamed(answer, tools=TOOLS)).tool_calls == (called('{"text": "a"}'),)


def test_a_call_of_a_function_without_properties_has_no_arguments() -> None:
    nothing = '{"function": {"name": "f", "parameters": {"properties": null}}}'
    answer = "<tool_call>\n<function=f>\n</function>\n</tool_call>"

    assert gather(streamed(answer, tools=[nothing])).tool_calls == (called("{}", "f"),)


def test_long_arguments_are_not_held_back_until_the_call_ends() -> None:
    code = "\n".join(f"x[{number}] = a < b  # {number}" for number in range(200))
    parser = AnswerParser(tools=TOOLS)
    parser.push("<tool_call>\n<function=find>\n<parameter=text>\n")

    streamed_so_far = "".join(
        part.text
        for character in code
        for part in parser.push(character)
        if isinstance(part, CallArguments)
    )

    assert streamed_so_far == json.dumps({"text": code})[: -len('"}')]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_pieces_of_several_tokens_as_speculative_decoding_sends_them(size: int) -> None:
    answer = f"{CALL}\n{written(('text', 'b'), ('limit', '2'))}"
    pieces = [answer[start : start + size] for start in range(0, len(answer), size)]

    assert gather(streamed(pieces, tools=TOOLS)).tool_calls == (
        called('{"text": "a"}'),
        called('{"text": "b", "limit": 2}'),
    )


def test_a_call_inside_the_reasoning_is_neither_lost_nor_obeyed() -> None:
    thought = f"Maybe\n{CALL}\nor not."
    parts = streamed(f"{thought}\n</think>\n\n{CALL}", tools=TOOLS, starts_in_reasoning=True)

    assert parts[0] == ReasoningText(thought)
    assert gather(parts).tool_calls == (called('{"text": "a"}'),)
    only_thought = streamed(f"{thought}\n</think>\n\nNo.", tools=TOOLS, starts_in_reasoning=True)
    assert only_thought == (ReasoningText(thought), ContentText("No."))


def test_a_call_inside_a_later_thought_is_text() -> None:
    answer = f"Wait.\n<think>\n{CALL}\n</think>\n"

    assert streamed(answer, tools=TOOLS) == (ContentText(answer),)


def test_a_missing_end_of_the_reasoning_does_not_lose_the_call() -> None:
    parts = streamed(f"I look.\n{CALL}", tools=TOOLS, starts_in_reasoning=True)

    assert parts[:2] == (ReasoningText("I look."), CallStart(0, "find"))


def test_structured_output_is_content_and_not_reasoning() -> None:
    answer = '{"city": "Paris", "note": "a </think> b"}'

    assert streamed(answer, tools=TOOLS) == (ContentText(answer),)


def test_a_call_that_max_tokens_cut_off_is_streamed_as_far_as_it_goes() -> None:
    parts = streamed(CALL[: CALL.index("a\n") + 1], tools=TOOLS, is_whole=False)

    assert parts[:2] == (CallStart(0, "find"), CallArguments(0, '{"text": "a'))
    assert gather(parts).tool_calls == ()


def test_several_calls_and_the_text_around_them() -> None:
    answer = f"One.\n{CALL}\n{written()}\nTwo.\n{written(('limit', '1'))}\nThree."
    message = gather(streamed(answer, tools=TOOLS))

    assert [call.arguments for call in message.tool_calls] == [
        '{"text": "a"}',
        "{}",
        '{"limit": 1}',
    ]
    assert message.content == "One.\n\nTwo.\n\nThree."


def test_half_a_call_around_another_stays_text() -> None:
    answer = f"<tool_call>\nfind\n{parameter('text', 'a')}</tool_call>\n{CALL}"

    assert gather(streamed(answer, tools=TOOLS)).tool_calls == (called('{"text": "a"}'),)


def test_a_call_with_mistakes_in_its_json_ends_at_its_closing_tag() -> None:
    call = "<tool_call>{'name': 'find', 'arguments': {'text': 'a'}}"

    assert gather(streamed(f"{call}</tool_call>", tools=TOOLS)).tool_calls == (
        called('{"text": "a"}'),
    )
    for answer in (call, f"{call}\n<tool_call>\n</tool_call>"):
        assert streamed(answer, tools=TOOLS) == (ContentText(answer),)
