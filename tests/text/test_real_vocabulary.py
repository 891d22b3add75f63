"""The vocabulary is the published one, and our templates differ from the published ones only in
words.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from segue.model.config import ModelConfig
from segue.text.tokens.tokenizer import Tokenizer
from tests.real_vocabulary import (
    IM_END,
    IM_START,
    KINDS,
    VOCAB_SIZE,
    published_template,
    template,
)


def test_the_vocabulary_is_the_published_one(real_tokenizer: Tokenizer) -> None:
    assert real_tokenizer.vocab_size == 248_077
    assert real_tokenizer.encode("<|im_start|>user\nHello<|im_end|>") == [
        *(IM_START, 846, 198, 9419),
        IM_END,
    ]
    assert real_tokenizer.token_id("</think>") == 248_069


def test_the_checkpoint_has_a_row_for_each_token(real_checkpoint: Path) -> None:
    assert ModelConfig.from_folder(real_checkpoint).vocab_size == VOCAB_SIZE


ASK: dict[str, Any] = {"role": "user", "content": " hi "}
ARGUMENTS = {"a": "x", "b": [1, True, None], "c": True, "d": None, "e": {"k": "v"}, "g": 1.5}
CALL = {"type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}
BARE = {"function": {"name": "f", "arguments": ""}}
GIVEN = {"role": "tool", "content": " r "}
IMAGES = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "video"}, {"image_url": 1}]


def answer(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


CONVERSATIONS: list[list[dict[str, Any]]] = [
    [ASK],
    [{"role": "system", "content": " s "}, ASK],
    [{"role": "system", "content": " "}, ASK],
    [{"role": "system", "content": IMAGES}, ASK],
    [ASK, answer("<think>\nhm\n</think>\n\nyes"), ASK],
    [ASK, answer("a </think> b", reasoning_content=""), GIVEN],
    [ASK, answer("c", reasoning_content=" r ", tool_calls=[CALL, CALL]), GIVEN, GIVEN],
    [
        ASK,
        answer("c", reasoning_content=" r "),
        ASK,
        answer("", tool_calls=[CALL]),
        GIVEN,
        answer("z"),
    ],
    [ASK, answer("", tool_calls=[BARE]), GIVEN],
    [ASK, answer("x"), {"role": "user", "content": "<tool_response>x</tool_response>"}],
    [{"role": "user", "content": "<tool_response>x</tool_response>"}],
    [{"role": "user", "content": IMAGES}, answer("x"), {"role": "user", "content": IMAGES}],
    [{"role": "user", "content": [{"type": "sound"}]}],
    [{"role": "user", "content": 5}],
    [ASK, GIVEN],
    [GIVEN, ASK],
    [ASK, {"role": "system", "content": "x"}],
    [{"role": "developer", "content": "x"}, ASK],
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"enable_thinking": True},
    {"enable_thinking": False},
    {"preserve_thinking": True},
    {"preserve_thinking": False},
    {"reasoning_effort": "low", "add_vision_id": True},
    {"reasoning_effort": "medium"},
    {"reasoning_effort": "none of these"},
]
WORDS = [
    (r"# Tools.*?<tools>", "# Tools <tools>"),
    (r"</tools>\n\n.*?</IMPORTANT>", "</tools>"),
    (r"(Reasoning effort is set to xhigh[^\n]*?answer\.|Think as long as .*?assume\.)", "Think."),
    (r"(Reasoning effort is set to low[^\n]*?elaboration\.|Think briefly\.)", "Hurry."),
    (r"Picture (\d)", r"Image \1"),
    (r"Video (\d)", r"Film \1"),
]


def rendered(source: str, **options: Any) -> str | None:
    try:
        (texts, _) = render_jinja_template(
            chat_template=source, add_generation_prompt=True, **options
        )
    except (jinja2.TemplateError, TypeError):
        return None
    (text,) = texts
    for pattern, word in WORDS:
        text = re.sub(pattern, word, text, flags=re.DOTALL)
    return str(text)


@pytest.mark.parametrize("kind", KINDS)
def test_our_templates_differ_from_the_published_only_in_words(kind: str) -> None:
    ours, published = template(kind), published_template(kind)
    tools = [{"type": "function", "function": {"name": "f"}}]

    for messages, given, options in itertools.product(CONVERSATIONS, (None, tools), OPTIONS):
        both = [
            rendered(source, conversations=[messages], tools=given, **options)
            for source in (ours, published)
        ]
        assert both[0] == both[1], (messages, given, options)
