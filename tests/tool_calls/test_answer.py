"""Calls in an answer's text: read where they are whole, left as text where they are not."""

from __future__ import annotations

import json

import pytest

from segue.tool_calls import read_answer
from segue.types import Message, ToolCall

TOOLS = (
    json.dumps(
        {
            "type": "function",
            "function": {
                "name": "find",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "text": {"type": "string"},
                        "limit": {"type": "integer"},
                        "where": {"type": "object"},
                    },
                },
            },
        }
    ),
)


def written(*parameters: tuple[str, str], name: str = "find") -> str:
    lines = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters)
    return f"<tool_call>\n<function={name}>\n{lines}</function>\n</tool_call>"


def called(arguments: str, name: str = "find") -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def assistant(content: str, *calls: ToolCall) -> Message:
    return Message(role="assistant", content=content, tool_calls=calls)


@pytest.mark.parametrize(
    ("parameters", "arguments"),
    [
        ([], "{}"),
        ([("text", "Grüße\n\n aus <b>")], '{"text": "Grüße\\n\\n aus <b>"}'),
        ([("text", "7")], '{"text": "7"}'),
        ([("limit", "7")], '{"limit": 7}'),
        ([("limit", "many")], '{"limit": "many"}'),
        ([("limit", "NaN")], '{"limit": "NaN"}'),
        ([("where", '{"a": [1]}'), ("limit", "2")], '{"where": {"a": [1]}, "limit": 2}'),
        ([("unheard", "5")], '{"unheard": "5"}'),
    ],
)
def test_arguments_have_the_types_of_the_tool(
    parameters: list[tuple[str, str]], arguments: str
) -> None:
    assert read_answer(written(*parameters), TOOLS) == assistant("", called(arguments))


def test_text_may_stand_before_calls_and_calls_after_each_other() -> None:
    text = f"One moment.\n\n{written(('text', 'a'))}\n{written(name='other')}"

    message = read_answer(text, TOOLS)

    assert message == assistant("One moment.", called('{"text": "a"}'), called("{}", "other"))


def test_what_is_thought_about_calls_calls_nothing() -> None:
    thought = f"Maybe {written()}?\n</think>\n\n"

    assert read_answer(f"{thought}No.", TOOLS) == assistant(f"{thought}No.")
    assert read_answer(thought + written(), TOOLS) == assistant(thought.rstrip(), called("{}"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No call.",
        written()[:-1],
        written() + " That was it.",
        f"{written()} and {written()}",
        "<tool_call>\n<function=find>\nloose\n</function>\n</tool_call>",
        written(("text", "a"), ("text", "b")),
        '<tool_call>\n{"name": "find", "arguments": {}}\n</tool_call>',
    ],
)
def test_what_is_not_text_and_then_whole_calls_stays_text(text: str) -> None:
    assert read_answer(text, TOOLS) == assistant(text)


def test_without_tools_nothing_is_a_call() -> None:
    assert read_answer(written(), ()) == assistant(written())
