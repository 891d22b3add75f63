"""Calls in an answer's text: which tags are calls, which are only text, and the text around
them.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.tool_calls.streaming import read_answer
from tests.tool_calls.writing import (
    END,
    OPEN,
    TOOLS,
    assistant,
    called,
    parameter,
    text_of,
    written,
)


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
def test_arguments_have_the_types_of_the_tools_schema(
    parameters: list[tuple[str, str]], arguments: str
) -> None:
    assert read_answer(written(*parameters), TOOLS) == assistant("", called(arguments))


def test_text_may_precede_calls_and_calls_may_follow_each_other() -> None:
    text = f"One moment.\n\n{written(('text', 'a'))}\n{written(name='other')}"

    message = read_answer(text, TOOLS)

    assert message == assistant("One moment.", called('{"text": "a"}'), called("{}", "other"))


def test_text_after_and_between_calls_is_kept() -> None:
    text = f"First.\n{written()}\nThen this:\n\n{written(('limit', '1'))}\n\nDone."

    message = read_answer(text, TOOLS)

    assert message == assistant(
        "First.\n\nThen this:\n\nDone.", called("{}"), called('{"limit": 1}')
    )


@pytest.mark.parametrize(
    "content",
    [
        "I use the <tool_call> tag now.",
        "I write <tool_call> and <function=find> and <parameter=text>, then </tool_call>.",
        "So `<function=find>` is what I call.",
        "In Hermes' form that is <tool_call>{…}</tool_call>.",
        "The <think> tag.",
    ],
)
def test_prose_about_tags_is_no_call(content: str) -> None:
    call = written(("text", "a"))

    assert read_answer(content, TOOLS) == assistant(content)
    assert read_answer(f"{content}\n\n{call}", TOOLS) == assistant(content, called('{"text": "a"}'))


def test_a_call_in_reasoning_is_no_call() -> None:
    thought = f"Maybe {written()}?\n</think>\n\n"

    assert read_answer(f"{thought}No.", TOOLS) == assistant(f"{thought}No.")
    assert read_answer(thought + written(), TOOLS) == assistant(thought.rstrip(), called("{}"))


@pytest.mark.parametrize(
    "thought",
    [
        "<think>\nI call.\n</think>",
        f"<think>\n{written(('limit', '9'))}\n</think>",
        f"{OPEN}<parameter=text>\nno, wait.\n</think>",
        f"Not the first line, <think>\n{written()}\n</think>",
        f"{OPEN}{parameter('text', 'a')}or rather\n</think>",
    ],
)
def test_reasoning_may_hold_any_markup(thought: str) -> None:
    text = f"{thought}\n\n{written(('text', 'a'))}"

    assert read_answer(text, TOOLS) == assistant(thought, called('{"text": "a"}'))


def test_reasoning_without_an_end_may_end_with_a_call() -> None:
    text = f"<think>\nI look.\n\n{written()}"

    assert read_answer(text, TOOLS) == assistant("<think>\nI look.", called("{}"))


@pytest.mark.parametrize(
    "value",
    [
        "ends with </think> here",
        "a\n</think>\n\nb",
        "\n".join(["</think>"] * 20),
        "<think>\nhm\n</think>",
        "use </parameter> to end it",
        "</parameter>\nin a line of its own",
        "a\n</parameter>\nb",
        "<parameter=text>",
        "a\n<parameter=text>\nb",
        "a\n<parameter=unheard>\nb\n</parameter>\nc",
        "<function=find>",
        "a\n<function=g>\nb",
        "</function>\n</tool_call>",
        "<tool_call>",
        "the </tool_call> tag",
        f"Example:\n{written(('text', 'y'))}\nend",
        written(("text", "y"), ("limit", "2")),
        f"{written(('text', 'y'))}\n{written(('text', 'z'), name='g')}\n" * 8,
        written(("text", f"\n{written(('text', 'y'))}\n")),
        f"a\n{OPEN}<parameter=text>\nb",
        f"a\n</parameter>\n{END}\nb",
        'a\n<tool_call>\n{"name": "find", "arguments": {}}\n</tool_call>\nb',
        "",
        "\n",
        "\n\n a \n\n",
        "a\r\nb\r",
        "\N{ROCKET}\u2028\x00",
    ],
)
def test_a_value_may_hold_any_markup(value: str) -> None:
    assert text_of(written(("text", value))) == value


@pytest.mark.parametrize(
    "answer",
    [
        f"{OPEN}<parameter=text>/</parameter>\n{END}",
        f"{OPEN}<parameter=text>\n/</parameter>\n{END}",
        f"{OPEN}<parameter=text>/\n</parameter>\n{END}",
        "<tool_call><function=find><parameter=text>/</parameter></function></tool_call>",
        "<tool_call>\n  <function=find>\n    <parameter=text>/</parameter>\n  </function>\n"
        "</tool_call>",
        written(("text", "/")).replace("\n", "\r\n"),
        "<tool_call>\n<function= find >\n<parameter= text >\n/\n</parameter>\n"
        "</function>\n</tool_call>",
        f"\n\n{written(('text', '/'))}\n\n",
    ],
)
def test_white_space_around_tags_is_ignored(answer: str) -> None:
    assert text_of(answer) == "/"


def test_without_tools_nothing_is_a_call() -> None:
    assert read_answer(written(), ()) == assistant(written())


@pytest.mark.parametrize(
    "tool",
    [
        '{"type": "function", "function": {"name": "find"}}',
        '{"type": "function", "function": {"name": "find", "parameters": null}}',
        '{"function": {"name": "find", "parameters": {"type": "object", "properties": null}}}',
        '{"name": "find", "parameters": {"properties": {"text": true}}}',
        '{"function": {"name": "other", "parameters": {}}}',
        '{"function": null}',
        '{"function": {"name": ["find"], "parameters": []}}',
        "[]",
        "no JSON",
    ],
)
def test_without_a_schema_a_value_is_its_text(tool: str) -> None:
    for value in ("02134", "4", "true", "None", "1e5"):
        assert read_answer(written(("text", value)), (tool,)) == assistant(
            "", called(json.dumps({"text": value}))
        )


PIECES = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<function=find>", "</function>", "<parameter=text>"),
        *("<parameter=limit>", "</parameter>", "<think>", "</think>", "\n", "a", " ", "4", "<"),
        *('{"name": "find", "arguments": ', "{", "}", "'", '"', "\\", "[", "1e999"),
    ]
)


@given(st.lists(PIECES, max_size=40).map("".join))
@example(written(("where", '{"a": NaN, "b": 1e999, "c": "\\ud800"}')))
def test_for_any_input_arguments_are_json_and_no_text_is_lost(text: str) -> None:
    for is_whole in (True, False):
        message = read_answer(text, TOOLS, is_whole=is_whole)

        for call in message.tool_calls:
            arguments = json.loads(call.arguments, parse_constant=pytest.fail)
            assert isinstance(arguments, dict)
        if not message.tool_calls:
            assert message.content == text
