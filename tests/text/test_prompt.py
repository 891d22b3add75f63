"""Chat to ids: equal to transformers for ordinary text, and safe for malicious text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput, Message, TextInput, TokenInput, ToolCall
from segue.text.conversation import read_conversation
from segue.text.prompt import PromptEncoder
from segue.text.tokens.tokenizer import Tokenizer

DEMO = Path(__file__).parents[2] / "segue" / "demo" / "checkpoint"

WEATHER = json.dumps(
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Le temps qu'il fait — à «Paris»",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
)
CALL = ToolCall(name="get_weather", arguments='{"days": 3, "city": "Zürich", "more": {"a": [1]}}')
AGENT_CHAT = ChatInput(
    messages=(
        Message(role="system", content="You are helpful.\n"),
        Message(role="user", content="Weather in Zürich? 🌤 "),
        Message(role="assistant", reasoning="A tool knows.", tool_calls=(CALL, CALL)),
        Message(role="tool", content='{"sky": "clear"}'),
        Message(role="tool", content="  rain\n"),
        Message(role="assistant", content="Clear, then rain."),
        Message(role="user", content="  Thanks! 日本 "),
    ),
    tools=(WEATHER,),
)


@pytest.fixture(scope="module")
def encoder(text_folder: Path) -> PromptEncoder:
    return PromptEncoder.from_folder(text_folder)


@pytest.fixture(scope="module")
def oracle(text_folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(text_folder)


def oracle_ids(oracle: PreTrainedTokenizerFast, chat: ChatInput, **options: bool) -> list[int]:
    conversation = read_conversation(chat)
    ids: list[int] = oracle.apply_chat_template(
        conversation.messages,
        tools=conversation.tools or None,
        add_generation_prompt=True,
        return_dict=False,
        **conversation.template_kwargs,
        **options,
    )
    return ids


def user_says(*contents: str) -> ChatInput:
    return ChatInput(messages=tuple(Message(role="user", content=text) for text in contents))


def test_a_chat_with_tools_gets_the_ids_of_transformers(
    encoder: PromptEncoder, oracle: PreTrainedTokenizerFast
) -> None:
    assert list(encoder.encode(AGENT_CHAT)) == oracle_ids(oracle, AGENT_CHAT)


def test_the_demo_checkpoint_gets_the_ids_of_transformers() -> None:
    oracle = PreTrainedTokenizerFast.from_pretrained(DEMO)

    assert list(PromptEncoder.from_folder(DEMO).encode(AGENT_CHAT)) == oracle_ids(
        oracle, AGENT_CHAT
    )


def test_the_demo_checkpoint_accepts_a_content_of_parts() -> None:
    encoder = PromptEncoder.from_folder(DEMO)
    roles = ("system", "user", "assistant", "tool", "user")
    parts = tuple(Message(role=role, content_parts=("a", "b")) for role in roles)
    whole = tuple(Message(role=role, content="ab") for role in roles)

    assert encoder.encode(ChatInput(messages=parts)) == encoder.encode(ChatInput(messages=whole))


@settings(max_examples=150, derandomize=True)
@given(
    contents=st.lists(
        st.one_of(st.text(), st.sampled_from(["a < think > b", "<|", "<tool_", "\ue000"])),
        min_size=1,
        max_size=4,
    )
)
def test_ordinary_messages_get_the_ids_of_transformers(
    encoder: PromptEncoder, oracle: PreTrainedTokenizerFast, contents: list[str]
) -> None:
    chat = user_says(*contents)

    assert list(encoder.encode(chat)) == oracle_ids(oracle, chat)


FRAGMENTS = [
    "<|im_end|>",
    "<|im_start|>",
    "<|im_",
    "end|>",
    "<|",
    "|>",
    "\n",
    "user",
    "\ue000",
    "<",
]


@settings(max_examples=150, derandomize=True)
@given(content=st.lists(st.sampled_from(FRAGMENTS)).map("".join))
def test_no_user_can_write_a_special_token(
    encoder: PromptEncoder, oracle: PreTrainedTokenizerFast, content: str
) -> None:
    chat = user_says(content)
    special_ids = [encoder.tokenizer.token_id(token) for token in ("<|im_start|>", "<|im_end|>")]

    ids = list(encoder.encode(chat))

    assert ids == oracle_ids(oracle, chat, sanitize_control_tokens=True)
    assert [token_id for token_id in ids if token_id in special_ids] == [
        special_ids[0],
        special_ids[1],
        special_ids[0],
    ]


def test_a_users_text_decodes_to_what_was_typed(encoder: PromptEncoder) -> None:
    ids = encoder.encode(user_says("say <|im_end|> to me"))

    assert "user\nsay <|im_end|> to me<|im_end|>" in encoder.tokenizer.decode(
        ids, skip_special=False
    )


def num_control(tokenizer: Tokenizer, ids: tuple[int, ...]) -> int:
    control_ids = {tokenizer.token_id(token) for token in tokenizer.control_tokens}
    return sum(token_id in control_ids for token_id in ids)


@pytest.mark.parametrize("typed", ["<|im_end|>", "</think>", "<tool_call>", "</think><tool_call>"])
def test_no_tool_or_call_can_write_a_control_token_even_escaped(
    encoder: PromptEncoder, typed: str
) -> None:
    def chat(word: str) -> ChatInput:
        # The other control tokens may be in the assistant's text.
        special = word if word.endswith("|>") else "said"
        call = ToolCall(name=word, arguments=json.dumps({word: word, "list": [word, 1, None]}))
        return ChatInput(
            messages=(
                Message(role="user", content="hi"),
                Message(role="assistant", content=special, reasoning=special, tool_calls=(call,)),
                Message(role="tool", content=word),
            ),
            tools=(
                json.dumps({"name": word, "parameters": {word: [word]}}).replace("<", "\\u003c"),
            ),
        )

    attacked = encoder.encode(chat(typed))

    assert num_control(encoder.tokenizer, attacked) == num_control(
        encoder.tokenizer, encoder.encode(chat("peace"))
    )


def test_a_text_input_is_the_whole_prompt_with_its_control_tokens(
    encoder: PromptEncoder, oracle: PreTrainedTokenizerFast
) -> None:
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"

    assert list(encoder.encode(TextInput(text))) == oracle(text)["input_ids"]


def test_token_ids_are_passed_unchanged(encoder: PromptEncoder) -> None:
    assert encoder.encode(TokenInput((3, 1, 2))) == (3, 1, 2)


def test_without_a_template_a_chat_is_refused_and_a_text_is_not(tokenizer: Tokenizer) -> None:
    encoder = PromptEncoder(tokenizer, None)

    with pytest.raises(InvalidRequest, match="no chat template; send the prompt as text"):
        encoder.encode(user_says("hi"))
    assert encoder.encode(TextInput("hi"))
