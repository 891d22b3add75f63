"""Reasoning among token ids: whether a prompt leaves it open, and how many tokens it takes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import pytest

from segue.api.types import ChatInput, Message
from segue.text.prompt import ThinkingTokens
from segue.text.tokens.tokenizer import Tokenizer
from tests.real_vocabulary import encoder_of, template

_START, _END, _MESSAGE = 7, 8, 9
TOKENS = ThinkingTokens(start=_START, end=_END, message_start=_MESSAGE)


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [
        ([], False),
        ([_MESSAGE, 1, _START, 2], True),
        ([_MESSAGE, 1, _START, 2, _END, 3], False),
        ([_MESSAGE, _START, 2, _MESSAGE, 1], False),
        ([_START], True),
        ([1, 2, 3], False),
    ],
)
def test_only_the_last_message_counts(prompt: Sequence[int], is_open: bool) -> None:
    assert TOKENS.is_open(prompt) is is_open


@pytest.mark.parametrize(
    ("answer", "is_open", "num"),
    [
        ([], True, 0),
        ([1, 2], True, 2),
        ([1, _END, 3], True, 2),
        ([_START, 1, _END, 3], False, 3),
        ([_START, 1], False, 2),
        ([1, _START, _END], False, 0),
    ],
)
def test_reasoning_ends_with_its_end(answer: list[int], is_open: bool, num: int) -> None:
    assert TOKENS.num_in(array("I", answer), is_open=is_open) == num


def test_without_the_tokens_nothing_is_reasoning() -> None:
    none = ThinkingTokens()

    assert not none.is_open([1, 2])
    assert none.num_in(array("I", [1, 2]), is_open=False) == 0


@pytest.mark.parametrize(
    ("kind", "thinks", "is_open"),
    [
        ("3.5", None, True),
        ("3.5", False, False),
        ("3.5-nothink", None, False),
        ("3.5-nothink", True, True),
        ("3.8", None, True),
    ],
)
def test_what_a_real_template_leaves_open(
    real_tokenizer: Tokenizer, kind: str, thinks: bool | None, is_open: bool
) -> None:
    encoder = encoder_of(real_tokenizer, template(kind))
    chat = ChatInput(
        messages=(
            Message(role="user", content="Hello"),
            Message(role="assistant", content="Hi.", reasoning="A greeting."),
            Message(role="user", content="The text <think> opens nothing."),
        ),
        enable_thinking=thinks,
    )

    assert encoder.thinking.is_open(encoder.encode(chat)) is is_open


def test_continued_reasoning_is_open_and_continued_content_is_not(
    real_tokenizer: Tokenizer,
) -> None:
    encoder = encoder_of(real_tokenizer, template("3.5"))
    messages = (
        Message(role="user", content="Hello"),
        Message(role="assistant", content="Hi", reasoning="A greeting."),
    )
    content = ChatInput(messages=messages, continue_final_message=True)
    reasoning = ChatInput(
        messages=(messages[0], Message(role="assistant", reasoning="A greeting.")),
        continue_final_message="reasoning",
    )

    assert not encoder.thinking.is_open(encoder.encode(content))
    assert encoder.thinking.is_open(encoder.encode(reasoning))


def test_a_prompt_may_end_after_its_last_message(real_tokenizer: Tokenizer) -> None:
    encoder = encoder_of(real_tokenizer, template("3.5"))
    chat = ChatInput(messages=(Message(role="user", content="Hello"),))
    bare = ChatInput(messages=chat.messages, add_generation_prompt=False)
    asked, unasked = encoder.encode(chat), encoder.encode(bare)

    assert tuple(encoder.encode_turn(bare).ids) == unasked == asked[: len(unasked)]
    assert encoder.tokenizer.decode(asked[len(unasked) :], skip_special=False) == (
        "<|im_start|>assistant\n<think>\n"
    )
