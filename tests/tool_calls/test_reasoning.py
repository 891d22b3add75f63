"""Where the reasoning ends, and which parsers a template needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segue.answers import (
    ContentText,
    ParserNames,
    ReasoningText,
    gather,
    opens_reasoning,
    parsers_for,
)
from segue.answers.reasoning import Reasoning
from segue.api.errors import InvalidRequest
from tests.tool_calls.streaming import streamed
from tests.tool_calls.writing import TOOLS, called, written

CALL = written(("text", "a"))
REAL = Path(__file__).parents[3] / "shared" / "data" / "qwen" / "trl"


@pytest.mark.parametrize("starts", [True, None])
@pytest.mark.parametrize(
    ("answer", "reasoning", "content"),
    [
        ("hm\n</think>\n\nyes", "hm", "yes"),
        ("\n\nhm\n\nhm\n</think>\nyes\n", "hm\n\nhm", "yes\n"),
        ("<think>\nhm\n</think>\n\nyes", "hm", "yes"),
        ("\n</think>\n\nyes", "", "yes"),
        ("hm</think>", "hm", ""),
        ("hm\n</think>\n\nthe tag </think> ends it", "hm", "the tag </think> ends it"),
        ("a < b </thin\n</think>\n\n<think> is a tag", "a < b </thin", "<think> is a tag"),
        (f"I may call\n{CALL}\n</think>\n\nyes", f"I may call\n{CALL}", "yes"),
    ],
)
def test_reasoning_ends_at_its_tag(
    answer: str, reasoning: str, content: str, starts: bool | None
) -> None:
    message = gather(streamed(answer, tools=TOOLS, starts_in_reasoning=starts))

    assert (message.reasoning, message.content) == (reasoning, content)
    assert message.tool_calls == ()


def test_reasoning_that_the_model_opens_itself_is_reasoning() -> None:
    for answer in ("<think>\nhm\n</think>\n\nyes", "\n <think>hm</think>yes"):
        parts = streamed(answer, starts_in_reasoning=False)

        assert parts == (ReasoningText("hm"), ContentText("yes"))


def test_with_thinking_off_text_is_content() -> None:
    for answer in ("yes", "<thin", "a </think> b", " <b>", "The <think> tag"):
        assert streamed(answer, starts_in_reasoning=False) == (ContentText(answer),)


def test_without_a_parser_reasoning_is_content_and_its_calls_are_none() -> None:
    thought = f"{CALL}\n</think>\n\n"

    for starts in (True, None):
        options: dict[str, Any] = {
            "tools": TOOLS,
            "reasoning": "none",
            "starts_in_reasoning": starts,
        }
        assert streamed(f"{thought}yes", **options) == (ContentText(f"{thought}yes"),)
        message = gather(streamed(f"{thought}{CALL}\nDone.", **options))
        assert message.content == f"{thought.rstrip()}\n\nDone."
        assert message.tool_calls == (called('{"text": "a"}'),)


def test_reasoning_that_is_cut_off_is_reasoning() -> None:
    for answer in ("I thi", "hm\n</thi", f"hm\n{CALL}"):
        parts = streamed(answer, tools=TOOLS, starts_in_reasoning=True, is_whole=False)

        assert parts == (ReasoningText(answer),)


@pytest.mark.parametrize("before", ["", "I look.\n\n", "I look.\n  "])
def test_a_call_ends_the_reasoning_if_its_end_is_missing(before: str) -> None:
    message = gather(streamed(before + CALL, tools=TOOLS, starts_in_reasoning=True))

    assert message.reasoning == before.rstrip("\n")
    assert message.tool_calls == (called('{"text": "a"}'),)
    assert message.content == ""


@pytest.mark.parametrize(
    "thought", [f"as in {CALL}", f"{CALL}\nor rather not", "<tool_call>\n<function=find>\nhm"]
)
def test_a_call_that_the_reasoning_goes_on_after_is_only_a_thought(thought: str) -> None:
    parts = streamed(thought, tools=TOOLS, starts_in_reasoning=True)

    assert parts == (ReasoningText(thought),)


@pytest.mark.parametrize(
    "piece",
    ["<", "</thin", "<tool_call>", "<tool_call>\n<function", "\n<tool_call>\n", "word ", "x<"],
)
def test_only_what_may_be_a_tag_waits(piece: str) -> None:
    reasoning = Reasoning(has_calls=True)
    num_waiting = 0

    for character in piece * 500:
        num_waiting += 1 - len(reasoning.push(character))
        assert num_waiting <= 100


@pytest.mark.parametrize(
    ("template", "tool_calls", "reasoning"),
    [
        ("<tool_call>\n<function=' + name + '>\n<parameter= ... <think>", "qwen3_coder", "qwen3"),
        ('<tool_call>\n{"name": <function-name>, "arguments": …}', "hermes", "none"),
        ('\'<tool_call>\\n{\\"name\\": \\"\' + name', "hermes", "none"),
        ("{{ messages[0].content }} <think>", "auto", "qwen3"),
        ('{"name": "a"}', "auto", "none"),
        ("", "auto", "none"),
    ],
)
def test_the_template_chooses_the_parsers(template: str, tool_calls: str, reasoning: str) -> None:
    assert parsers_for(template) == ParserNames(tool_calls, reasoning)
    assert parsers_for(template, ParserNames("none", "none")) == ParserNames("none", "none")


@pytest.mark.parametrize("name", ["qwen3_5_think", "qwen3_5_nothink", "qwen3_6", "qwen3_8"])
def test_published_templates_choose_their_own_format(name: str) -> None:
    path = REAL / f"{name}.jinja"
    if not path.exists():
        pytest.skip(f"no published template beside the repository: {path}")

    assert parsers_for(path.read_text()) == ParserNames("qwen3_coder", "qwen3")


def test_an_unknown_parser_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="must be one of auto, qwen3_coder, hermes, none"):
        ParserNames(tool_calls="llama")
    with pytest.raises(InvalidRequest, match="reasoning must be one of"):
        ParserNames(reasoning="r1")


def test_a_prompt_that_ends_in_an_open_tag_opens_the_reasoning() -> None:
    assert opens_reasoning("<|im_start|>assistant\n<think>\n")
    assert not opens_reasoning("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not opens_reasoning("<|im_start|>assistant\n")
