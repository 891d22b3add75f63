"""Answers as they arrive: what is certain, when, and that cutting does not matter."""

from __future__ import annotations

import json
import random

import pytest

from segue.answers import (
    AnswerParser,
    CallAbandoned,
    CallArguments,
    CallEnd,
    CallStart,
    ContentText,
    ReasoningText,
    gather,
)
from tests.tool_calls.streaming import cut, read_answer, streamed
from tests.tool_calls.writing import END, OPEN, TOOLS, assistant, called, parameter, written

HERMES = '<tool_call>\n{"name": "find", "arguments": {"text": "a </tool_call>"}}\n</tool_call>'
END_OF_HERMES = "\n</tool_call>"
PIECES = (
    *("<tool_call>", "</tool_call>", "<function=find>", "</function>", "<parameter=text>"),
    *("<parameter=limit>", "</parameter>", "<think>", "</think>", "\n", "\r\n", "a", " ", "4"),
    *(
        "<",
        "</",
        "<tool_",
        "<function=",
        "<parameter=te",
        "</par",
        "\n<tool_call>\n",
        "<function=g>",
    ),
    *('{"name": "find", "arguments": ', "{", "}", "[", "'", '"', "\\", "\\u00", "1e999", ", "),
    *('<tool_call>{"name": "find", "arguments": {', '"text": "', '"limit": ', '": ', "]", "NaN"),
    *("}}</tool_call>", '"}}\n</tool_call>', "True", "\\ud800", ', "name": "g"'),
    *(written(("text", "b")), written(("text", "b\n"), ("limit", "2")), written(), HERMES),
    *(OPEN, END, parameter("text", "c"), parameter("limit", "3"), parameter("unheard", "d")),
)
OPTIONS = [
    {"tools": TOOLS, "tool_calls": calls, "reasoning": reasoning, "starts_in_reasoning": starts}
    for calls in ("auto", "qwen3_coder", "hermes", "none")
    for reasoning in ("qwen3", "none")
    for starts in (False, True, None)
]


@pytest.mark.parametrize("seed", range(4))
def test_cutting_does_not_matter(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        text = "".join(rng.choices(PIECES, k=rng.randrange(25)))
        options, is_whole = rng.choice(OPTIONS), rng.random() < 0.7
        whole = streamed([text], is_whole=is_whole, **options)

        assert streamed(cut(text, rng), is_whole=is_whole, **options) == whole, (text, options)
        assert streamed(text, is_whole=is_whole, **options) == whole, (text, options)

        message = gather(whole)
        for call in message.tool_calls:
            assert isinstance(json.loads(call.arguments, parse_constant=pytest.fail), dict)
        if options["reasoning"] == "none" and not message.tool_calls:
            assert message.content == text
        if options == OPTIONS[5]:
            assert message == read_answer(text, TOOLS, is_whole=is_whole)


def test_content_comes_at_once_but_for_what_may_be_a_tag() -> None:
    parser = AnswerParser(tools=TOOLS)

    assert parser.push("Hello") == [ContentText("Hello")]
    assert parser.push(" a < b\n") == [ContentText(" a < b")]
    assert parser.push("<tool") == []
    assert parser.push("box> and <tool_call>") == [ContentText("\n<toolbox> and")]
    assert parser.push(" is") == [ContentText(" <tool_call> is")]
    assert parser.push(" a tag.\n\n") == [ContentText(" a tag.")]
    assert parser.finish() == [ContentText("\n\n")]


def test_reasoning_comes_at_once() -> None:
    parser = AnswerParser(tools=TOOLS, starts_in_reasoning=True)

    assert parser.push("\nI thi") == [ReasoningText("I thi")]
    assert parser.push("nk\n</th") == [ReasoningText("nk")]
    assert parser.push("ink>\n") == []
    assert parser.push("\nYes") == [ContentText("Yes")]


def test_a_text_comes_as_it_is_written_and_other_values_at_their_end() -> None:
    parser = AnswerParser(tools=TOOLS)

    assert parser.push("Well.\n\n<tool_call>\n<function=find>\n") == [ContentText("Well.")]
    assert parser.push("<parameter=text>\n") == [CallStart(0, "find")]
    assert parser.push("line 1\n") == [CallArguments(0, '{"text": "line 1')]
    assert parser.push('say "x" <b') == [CallArguments(0, '\\nsay \\"x\\" <b')]
    assert parser.push("\n</parameter>\n") == []
    assert parser.push("<parameter=limit>\n") == [CallArguments(0, '"')]
    assert parser.push("1") == []
    assert parser.push("7\n</parameter>\n</function>\n</tool_call>\n") == []
    assert parser.push("<tool_call>\n<function=find>\n<parameter=limit>\n") == [
        CallArguments(0, ', "limit": 17'),
        CallArguments(0, "}"),
        CallEnd(0),
        CallStart(1, "find"),
    ]


def test_a_call_without_parameters_comes_at_its_end() -> None:
    parser = AnswerParser(tools=TOOLS)

    assert parser.push(OPEN) == []
    assert parser.push(END) == [CallStart(0, "find"), CallArguments(0, "{}"), CallEnd(0)]
    assert parser.push("\nSo") == [ContentText("So")]


def test_a_json_calls_name_and_arguments_come_as_they_are_written() -> None:
    parser = AnswerParser(tools=TOOLS)

    assert parser.push('Well.\n\n<tool_call>\n{"name": "find", "argu') == [ContentText("Well.")]
    assert parser.push('ments": ') == []
    assert parser.push("{") == [CallStart(0, "find"), CallArguments(0, "{")]
    assert parser.push('"text": "line\n1 \\') == [CallArguments(0, '"text": "line\\n1 ')]
    assert parser.push("u00e") == []
    assert parser.push('9 </tool_call>", "limit": 1') == [
        CallArguments(0, '\\u00e9 </tool_call>", "limit":')
    ]
    assert parser.push("7, ") == [CallArguments(0, " 17")]
    assert parser.push('"where": NaN}') == [CallArguments(0, ', "where": "NaN"}')]
    assert parser.push("}\n</tool_call>") == [CallEnd(0)]
    assert parser.push("\nSo") == [ContentText("\n\nSo")]


@pytest.mark.parametrize(
    "json_text",
    [
        '{"arguments": {"text": "a"}, "name": "find"}',
        '{"name": "find", "arguments": "{\\"text\\": \\"a\\"}"}',
        '{"function": {"name": "find", "arguments": {"text": "a"}}}',
        '[{"name": "find", "arguments": {"text": "a"}}]',
        "{'name': 'find', 'arguments': {'text': 'a'}}",
    ],
)
def test_a_json_call_in_another_order_or_form_comes_at_its_end(json_text: str) -> None:
    parser = AnswerParser(tools=TOOLS)

    assert parser.push(f"<tool_call>\n{json_text}\n</tool_call") == []
    assert parser.push(">") == [
        CallStart(0, "find"),
        CallArguments(0, '{"text": "a"}'),
        CallEnd(0),
    ]


SLIPS = {
    '{"text": "a"': "}",
    '{"text": "a"}}}': "",
    '{"text": "a",}': "}",
    '{"text":"a", "limit":[1': None,
    "{\"text\": 'a'}": ' "a"}',
    '{"text": "a", "ok": True}': " true}",
    '{"text":"a","ok":True}': None,
    '{"text": "\\x61"}': 'a"}',
    '{"text": "\\ud800"}': None,
    '{"text": "a"}, "name": "g"': None,
    '{"text": "a"}, "arguments": {"text": "b"}': None,
    '{"text": "a"}, "name": "find"': "",
}
"""Arguments, and what completes what came of them, if anything does."""


@pytest.mark.parametrize("arguments", SLIPS)
def test_a_json_call_with_a_slip_is_completed_or_was_none(arguments: str) -> None:
    answer = f'Hm.\n<tool_call>{{"name": "find", "arguments": {arguments}}}</tool_call>'
    parts = streamed(answer, tools=TOOLS)

    assert parts[:2] == (ContentText("Hm."), CallStart(0, "find"))
    assert isinstance(parts[2], CallArguments)
    rest = SLIPS[arguments]
    if rest is None:
        assert parts[3:] == (CallAbandoned(0, "\n<tool_call>"), ContentText(answer[15:]))
        assert gather(parts) == assistant(answer)
    else:
        assert parts[3:] == (CallEnd(0),)
        assert parts[2].text.endswith(rest)
        assert gather(parts).tool_calls[0].name == "find"
        assert json.loads(parts[2].text)["text"] == "a"


def test_a_damaged_json_call_is_the_same_however_it_is_cut() -> None:
    rng = random.Random(1)
    num_abandoned = 0
    for _ in range(150):
        value = rng.choice(["a", 'é\n"', "</tool_call>"])
        arguments = {"text": value, "limit": rng.choice([1, None, [1, {"a": 2}], 1.5])}
        call = json.dumps(
            {"name": "find", "arguments": arguments},
            ensure_ascii=rng.random() < 0.5,
            separators=rng.choice([(", ", ": "), (",", ":")]),
        )
        place = rng.randrange(len(call) + 1)
        call = call[:place] + rng.choice(["", *PIECES]) + call[place + rng.choice([0, 0, 1, 2]) :]
        text = f"<tool_call>\n{call}{rng.choice(['', END_OF_HERMES])}{rng.choice(['', 'So.'])}"
        is_whole = rng.random() < 0.7
        whole = streamed([text], is_whole=is_whole, tools=TOOLS)

        assert streamed(text, is_whole=is_whole, tools=TOOLS) == whole, text
        message = gather(whole)
        assert message.tool_calls or message.content == text
        for made in message.tool_calls:
            assert isinstance(json.loads(made.arguments, parse_constant=pytest.fail), dict)
        num_abandoned += any(isinstance(part, CallAbandoned) for part in whole)
    assert num_abandoned > 10


@pytest.mark.parametrize("length", range(HERMES.index('": {') + 4, HERMES.rindex("}")))
def test_a_json_call_that_was_cut_off_is_content(length: int) -> None:
    parts = streamed(HERMES[:length], tools=TOOLS, is_whole=False)

    assert gather(parts) == assistant(HERMES[:length])
    assert parts[0] == CallStart(0, "find")
    assert isinstance(parts[1], CallArguments)
    assert '{"text": "a </tool_call>"}'.startswith(parts[1].text)


def test_a_call_is_over_only_when_its_last_value_is() -> None:
    value = f"x\n</parameter>\n{END}\ny"
    parser = AnswerParser(tools=TOOLS)
    parser.push(OPEN)
    parser.push("<parameter=text>\nx")

    assert parser.push(f"{value[1:]}") == []
    assert parser.push(f"\n</parameter>\n{END}") == []
    assert parser.finish() == [
        CallArguments(0, f'{json.dumps(value)[2:-1]}"'),
        CallArguments(0, "}"),
        CallEnd(0),
    ]


@pytest.mark.parametrize(
    "quoted",
    [
        f"<tool_call></tool_call><parameter=q>{written(('text', 'y'))}\n",
        f"</function>{written(('text', 'y'), ('limit', '2'))}</function>b c",
    ],
)
def test_another_call_in_a_value_does_not_make_the_end_before_it_certain(quoted: str) -> None:
    value = f"</parameter>\n{END}\n{quoted}"
    parts = streamed(written(("limit", "1"), ("text", value)), tools=TOOLS)

    assert [json.loads(call.arguments) for call in gather(parts).tool_calls] == [
        {"limit": 1, "text": value}
    ]


def test_text_after_a_call_is_content() -> None:
    parts = streamed(f"a\n{written(('text', 'b'))}\n\nDone.\n", tools=TOOLS)

    assert parts == (
        ContentText("a"),
        CallStart(0, "find"),
        CallArguments(0, '{"text": "b"}'),
        CallEnd(0),
        ContentText("\n\nDone."),
    )


FULL = f"One moment.\n\n{written(('text', 'a'))}\n{written(('text', 'b'), ('limit', '2'))}"


@pytest.mark.parametrize("length", range(FULL.rindex("<tool_call>"), len(FULL)))
def test_what_came_of_a_call_that_was_cut_off_stands_and_the_message_has_its_text(
    length: int,
) -> None:
    parts = streamed(FULL[:length], tools=TOOLS, is_whole=False)

    message = gather(parts)
    rest = FULL[FULL.rindex("<tool_call>") : length].rstrip("\n")
    assert message.tool_calls == (called('{"text": "a"}'),)
    assert message.content == "One moment." + (f"\n\n{rest}" if rest else "")
    started = [part.index for part in parts if isinstance(part, CallStart)]
    ended = [part.index for part in parts if isinstance(part, CallEnd | CallAbandoned)]
    assert started == ended
    arguments = "".join(
        part.text for part in parts if isinstance(part, CallArguments) and part.index == 1
    )
    assert '{"text": "b", "limit": 2}'.startswith(arguments)


def test_a_quoted_call_in_a_value_that_was_cut_off_is_no_call() -> None:
    answer = f"{OPEN}<parameter=text>\nLike this:\n{written(('text', 'y'))}\nand"

    message = gather(streamed(answer, tools=TOOLS, is_whole=False))

    assert message == assistant(answer)


def test_a_call_with_two_values_for_a_parameter_is_abandoned() -> None:
    answer = f"Hm.\n\n{written(('text', 'a'), ('text', 'b'))}\n"
    parts = streamed(answer, tools=TOOLS)

    assert parts[1:3] == (CallStart(0, "find"), CallArguments(0, '{"text": "a"'))
    assert isinstance(parts[3], CallAbandoned)
    assert gather(parts) == assistant(answer)


def test_without_tools_everything_is_content() -> None:
    for options in ({"tools": ()}, {"tools": TOOLS, "tool_calls": "none"}):
        assert streamed(FULL, **options) == (ContentText(FULL),)


def test_a_format_that_is_not_read_is_content() -> None:
    answers = {"hermes": HERMES, "qwen3_coder": written(("text", "a </tool_call>"))}

    for read in answers:
        for answer_format, answer in answers.items():
            parts = streamed(answer, tools=TOOLS, tool_calls=read)
            calls = (called('{"text": "a </tool_call>"}'),) if read == answer_format else ()
            assert gather(parts).tool_calls == calls
            assert calls or parts == (ContentText(answer),)
