"""Calls in an answer's text: which tags are calls, which are only text, and what stands around."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
OPEN = "<tool_call>\n<function=find>\n"
END = "</function>\n</tool_call>"


def parameter(key: str, value: str) -> str:
    return f"<parameter={key}>\n{value}\n</parameter>\n"


def written(*parameters: tuple[str, str], name: str = "find") -> str:
    lines = "".join(parameter(key, value) for key, value in parameters)
    return f"<tool_call>\n<function={name}>\n{lines}</function>\n</tool_call>"


def called(arguments: str, name: str = "find") -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def assistant(content: str, *calls: ToolCall) -> Message:
    return Message(role="assistant", content=content, tool_calls=calls)


def text_of(answer: str) -> str:
    """The value of `text` in the one call of an answer that says nothing else."""
    message = read_answer(answer, TOOLS)
    assert message.content == ""
    (call,) = message.tool_calls
    arguments = json.loads(call.arguments)
    assert (call.name, list(arguments)) == ("find", ["text"])
    value: str = arguments["text"]
    return value


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


def test_text_after_and_between_calls_is_said_too() -> None:
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
def test_prose_about_tags_calls_nothing(content: str) -> None:
    call = written(("text", "a"))

    assert read_answer(content, TOOLS) == assistant(content)
    assert read_answer(f"{content}\n\n{call}", TOOLS) == assistant(content, called('{"text": "a"}'))


def test_what_is_thought_about_calls_calls_nothing() -> None:
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
def test_a_thought_may_hold_any_markup(thought: str) -> None:
    text = f"{thought}\n\n{written(('text', 'a'))}"

    assert read_answer(text, TOOLS) == assistant(thought, called('{"text": "a"}'))


def test_a_thought_that_does_not_end_may_end_with_a_call() -> None:
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
def test_white_space_around_tags_means_nothing(answer: str) -> None:
    assert text_of(answer) == "/"


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


def test_a_call_without_its_first_tag_names_a_function_that_there_is() -> None:
    example = f"<function=example>\n{parameter('text', 'a')}</function>"

    assert read_answer(example, TOOLS) == assistant(example)


@pytest.mark.parametrize(
    "json_text",
    [
        '{"name": "find", "arguments": {"text": "a"}}',
        '{"arguments": {"text": "a"}, "name": "find"}',
        '{"name": "find", "arguments": "{\\"text\\": \\"a\\"}"}',
        '{"name": "find", "parameters": {"text": "a"}}',
        '{"type": "function", "function": {"name": "find", "arguments": {"text": "a"}}}',
        "{'name': 'find', 'arguments': {'text': 'a',}}",
    ],
)
@pytest.mark.parametrize("around", ["\n{}\n</tool_call>", "{}</tool_call>", "\n{}"])
def test_hermes_calls_are_calls(json_text: str, around: str) -> None:
    if around == "\n{}" and "'" in json_text:
        around += "</tool_call>"
    assert text_of("<tool_call>" + around.format(json_text)) == "a"


@pytest.mark.parametrize("arguments", ['""', "null", "{}", '"null"', '"{}"'])
def test_a_hermes_call_may_have_no_arguments(arguments: str) -> None:
    answer = f'<tool_call>\n{{"name": "find", "arguments": {arguments}}}\n</tool_call>'

    assert read_answer(answer, TOOLS) == assistant("", called("{}"))


def test_hermes_arguments_are_what_their_json_says() -> None:
    value = 'a </tool_call> b\n{"name": "g"} "'
    answer = json.dumps({"name": "find", "arguments": {"text": value, "zip": "02134", "n": 4}})

    message = read_answer(f"Hm.\n<tool_call>\n{answer}\n</tool_call>\n{written()}", TOOLS)

    assert message.content == "Hm."
    assert [json.loads(call.arguments) for call in message.tool_calls] == [
        {"text": value, "zip": "02134", "n": 4},
        {},
    ]


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
        '<tool_call>\n{"name": "find", "arguments": {"text": "a\n</tool_call>',
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert read_answer(text, TOOLS) == assistant(text)


def test_a_parameter_that_is_given_twice_alike_is_given_once() -> None:
    answer = written(("text", "a"), ("text", "a"))

    assert read_answer(answer, TOOLS) == assistant("", called('{"text": "a"}'))


FULL = f"One moment.\n\n{written(('text', 'a'))}\n{written(('text', 'b'), ('limit', '2'))}"


@pytest.mark.parametrize("length", range(FULL.rindex("<tool_call>"), len(FULL)))
def test_a_call_that_max_tokens_cut_off_stays_text_and_those_before_it_stay_calls(
    length: int,
) -> None:
    cut = FULL[:length]

    message = read_answer(cut, TOOLS, is_whole=False)

    assert message.tool_calls == (called('{"text": "a"}'),)
    rest = cut[cut.index("</tool_call>") :].removeprefix("</tool_call>").strip("\n")
    assert message.content == ("One moment." + (f"\n\n{rest}" if rest else ""))


def test_a_whole_call_before_the_cut_is_a_call() -> None:
    assert read_answer(FULL, TOOLS, is_whole=False).tool_calls == (
        called('{"text": "a"}'),
        called('{"text": "b", "limit": 2}'),
    )


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
def test_whatever_is_written_arguments_are_json_and_text_is_not_lost(text: str) -> None:
    for is_whole in (True, False):
        message = read_answer(text, TOOLS, is_whole=is_whole)

        for call in message.tool_calls:
            arguments = json.loads(call.arguments, parse_constant=pytest.fail)
            assert isinstance(arguments, dict)
        if not message.tool_calls:
            assert message.content == text
