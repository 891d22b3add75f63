"""Calls with mistakes: missing, cut off, duplicated or superfluous parts."""

from __future__ import annotations

import json

import pytest

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
    "answer",
    [
        f"{OPEN}{parameter('text', 'a')}</tool_call>",
        f"{OPEN}{parameter('text', 'a')}</function>",
        f"{OPEN}{parameter('text', 'a')}",
        f"<function=find>\n{parameter('text', 'a')}{END}",
        f"<function=find>\n{parameter('text', 'a')}</function>",
        f"{OPEN}<parameter=text>\na\n{END}",
        f"{OPEN}<parameter=text>\na\n</tool_call>",
        f"{OPEN}<parameter=text>\na\n",
        f"{OPEN}<parameter=text>\na",
        "<function=find>\n<parameter=text>\na\n",
    ],
)
def test_a_tag_may_be_missing(answer: str) -> None:
    assert text_of(answer) == "a"


def test_the_end_of_a_parameter_may_be_missing_before_the_next_one() -> None:
    answer = f"{OPEN}<parameter=text>\na\n<parameter=limit>\n2\n{END}"

    assert read_answer(answer, TOOLS) == assistant("", called('{"text": "a", "limit": 2}'))


def test_the_end_of_a_call_may_be_missing_before_the_next_one() -> None:
    first = f"{OPEN}{parameter('text', 'a')}"

    for tags in (first, f"{first}</function>\n"):
        assert read_answer(tags + written(), TOOLS) == assistant(
            "", called('{"text": "a"}'), called("{}")
        )


@pytest.mark.parametrize("text", ["<tool_call>\n<function=find>", OPEN, f"{OPEN}</function>\n"])
def test_every_end_of_a_call_without_parameters_may_be_missing(text: str) -> None:
    assert read_answer(text, TOOLS) == assistant("", called("{}"))
    assert read_answer(f"{text}loose", TOOLS).tool_calls == (
        (called("{}"),) if "</function>" in text else ()
    )


def test_a_function_may_start_after_words_if_its_line_ends() -> None:
    answer = f"Sure. <function=find>\n{parameter('text', 'a')}{END}"

    assert read_answer(answer, TOOLS) == assistant("Sure. ", called('{"text": "a"}'))
    mentioned = f"I use <function=find>\nas follows.\n\n{written()}"
    assert read_answer(mentioned, TOOLS) == assistant(
        "I use <function=find>\nas follows.", called("{}")
    )


@pytest.mark.parametrize(
    "parameters",
    [
        f"with\n{parameter('text', 'a')}{parameter('limit', '2')}",
        f"{parameter('text', 'a')}and\n{parameter('limit', '2')}",
        f"{parameter('text', 'a')}{parameter('limit', '2')}that is all\n",
        f"with\n{parameter('text', 'a')}and\n{parameter('limit', '2')}that is all\n",
    ],
)
def test_words_between_parameters_are_ignored(parameters: str) -> None:
    assert read_answer(f"{OPEN}{parameters}{END}", TOOLS) == assistant(
        "", called('{"text": "a", "limit": 2}')
    )


def test_several_unknown_parameters_are_read_separately() -> None:
    made_up = {f"p{number}": f"value {number}" for number in range(50)}

    message = read_answer(written(("text", "a"), *made_up.items()), TOOLS)

    assert [json.loads(call.arguments) for call in message.tool_calls] == [{"text": "a", **made_up}]


def test_a_call_without_its_first_tag_needs_a_known_function() -> None:
    example = f"<function=example>\n{parameter('text', 'a')}</function>"

    assert read_answer(example, TOOLS) == assistant(example)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No call.",
        written()[:-1],
        f"{OPEN}loose\n{END}",
        written(("text", "a"), ("text", "b")),
        "<tool_call>\n</tool_call>",
        "<tool_call>\nfind\n</tool_call>",
        '<tool_call>\n{"name": 4, "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "find", "arguments": [4]}\n</tool_call>',
        '<tool_call>\n{"name": "find", "arguments": "4"}\n</tool_call>',
        '<tool_call>\n[{"name": "find"}, 4]\n</tool_call>',
        "<tool_call>\n[]\n</tool_call>",
        '<tool_call>\n{"name": "find", "arguments": {"text": "a\n</tool_call>',
    ],
)
def test_text_that_is_no_call_stays_text(text: str) -> None:
    assert read_answer(text, TOOLS) == assistant(text)


def test_a_repeated_parameter_with_the_same_value_counts_once() -> None:
    answer = written(("text", "a"), ("text", "a"))

    assert read_answer(answer, TOOLS) == assistant("", called('{"text": "a"}'))


FULL = f"One moment.\n\n{written(('text', 'a'))}\n{written(('text', 'b'), ('limit', '2'))}"


@pytest.mark.parametrize("length", range(FULL.rindex("<tool_call>"), len(FULL)))
def test_a_call_that_max_tokens_cut_off_stays_text_and_earlier_calls_stay_calls(
    length: int,
) -> None:
    cut = FULL[:length]

    message = read_answer(cut, TOOLS, is_whole=False)

    assert message.tool_calls == (called('{"text": "a"}'),)
    rest = cut[cut.index("</tool_call>") :].removeprefix("</tool_call>").strip("\n")
    assert message.content == ("One moment." + (f"\n\n{rest}" if rest else ""))


def test_a_complete_call_before_the_cut_is_a_call() -> None:
    assert read_answer(FULL, TOOLS, is_whole=False).tool_calls == (
        called('{"text": "a"}'),
        called('{"text": "b", "limit": 2}'),
    )
