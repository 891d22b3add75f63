"""Calls about tokens alone: tokenised as a turn would be, and back, token by token."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from router.sessions.calls import TokenDesk
from router.sessions.prompt import PromptBuilder
from segue.api.errors import ContextOverflow, InvalidRequest
from segue.api.types import ChatInput, Continuation, Message, TextInput
from segue.demo import checkpoint_dir
from segue.text.prompt import IdEncoder


@pytest_asyncio.fixture
async def desk() -> AsyncIterator[TokenDesk]:
    prompts = PromptBuilder.from_folder(checkpoint_dir())
    yield TokenDesk(prompts, prompts.limits(1 << 20))
    await prompts.close()


def chat_of(text: str) -> ChatInput:
    return ChatInput(messages=(Message(role="user", content=text),))


async def test_a_chat_is_tokenised_as_its_turn_would_be(desk: TokenDesk) -> None:
    chat = chat_of("Where is the größte one?")

    assert tuple(await desk.tokenize(chat)) == desk.prompts.encoder.encode(chat)


async def test_a_text_is_tokenised_with_its_control_tokens(desk: TokenDesk) -> None:
    ids = await desk.tokenize(TextInput("<|im_start|>user\nHello<|im_end|>"))

    assert desk.detokenize(ids).tokens[0] == b"<|im_start|>"
    assert desk.detokenize(ids).text == "user\nHello"


async def test_tokens_have_their_bytes_even_if_they_are_parts_of_characters(
    desk: TokenDesk,
) -> None:
    ids = await desk.tokenize(TextInput("日本 👋🏽"))
    back = desk.detokenize(ids)

    assert len(back.tokens) == len(ids)
    assert b"".join(back.tokens).decode() == back.text == "日本 👋🏽"


def test_no_tokens_are_no_text(desk: TokenDesk) -> None:
    assert desk.detokenize(()).text == ""


async def test_what_cannot_be_tokenised_is_refused(desk: TokenDesk) -> None:
    continued = ChatInput(
        messages=chat_of("a").messages, continues=Continuation(num_messages=1, digest=b"")
    )
    with pytest.raises(InvalidRequest, match="a continued history"):
        await desk.tokenize(continued)
    with pytest.raises(ContextOverflow, match="holds no more than"):
        await desk.tokenize(TextInput("a" * (1 << 21)))


def test_what_cannot_be_detokenised_is_refused(desk: TokenDesk) -> None:
    size = desk.prompts.config.vocab_size
    with pytest.raises(InvalidRequest, match=f"tokens.*ids of the model's tokens, 0 to {size - 1}"):
        desk.detokenize((size,))
    with pytest.raises(InvalidRequest, match="send fewer at a time"):
        desk.detokenize((1,) * (desk.limits.max_context + 1))


def test_without_a_tokenizer_there_is_no_text(desk: TokenDesk) -> None:
    bare = PromptBuilder(
        encoder=IdEncoder(), config=desk.prompts.config, defaults=desk.prompts.defaults, model_id=""
    )

    with pytest.raises(InvalidRequest, match="served without"):
        TokenDesk(bare, desk.limits).detokenize((1,))
