"""A prompt is reused up to the last page boundary before the template's changes."""

from __future__ import annotations

import random

import pytest

from benchmarks.reuse.prefill_side import PrefillSide
from benchmarks.reuse.pressure import press
from benchmarks.reuse.sweep import PAGE_TOKENS, Reuse, follow, sweep_chats, sweep_ids
from segue.api.types import ChatInput, Message
from segue.text.tokens.tokenizer import Tokenizer
from tests.real_vocabulary import KINDS, encoder_of, published_template, template


def check(turns: list[Reuse]) -> None:
    assert {turn.first_tokens % PAGE_TOKENS for turn in turns} == set(range(PAGE_TOKENS))
    # Something is rewritten, and something is shared: otherwise the bound would mean nothing.
    assert all(turn.bound > 0 for turn in turns)
    assert [turn for turn in turns if turn.cached_tokens < turn.bound] == []


# "3.5-nothink" differs from "3.5" only if thinking is unset, and these chats set it.
KINDS_OF_TALK = [kind for kind in KINDS if kind != "3.5-nothink"]


@pytest.mark.parametrize("enable_thinking", [True, False])
@pytest.mark.parametrize("kind", KINDS_OF_TALK)
async def test_prompts_of_every_length_and_their_next_eleven_turns_are_reused(
    kind: str, enable_thinking: bool, real_tokenizer: Tokenizer
) -> None:
    encoder = encoder_of(real_tokenizer, template(kind))

    check(await sweep_chats(encoder, enable_thinking=enable_thinking))


@pytest.mark.parametrize("enable_thinking", [True, False])
@pytest.mark.parametrize("kind", KINDS_OF_TALK)
async def test_prompts_are_reused_with_published_templates(
    kind: str, enable_thinking: bool, real_tokenizer: Tokenizer
) -> None:
    encoder = encoder_of(real_tokenizer, published_template(kind))

    check(await sweep_chats(encoder, enable_thinking=enable_thinking))


async def test_token_ids_of_every_length_are_reused(real_tokenizer: Tokenizer) -> None:
    check(await sweep_ids(encoder_of(real_tokenizer, template("3.5"))))


async def test_1024_tokens_sent_twice_are_reused_except_the_last_page() -> None:
    for num_tokens, cached in ((1024, 1008), (1025, 1024), (1039, 1024)):
        prompt = [random.Random(num_tokens).randrange(9000) for _ in range(num_tokens)]
        async with PrefillSide() as side:
            assert side.serve(prompt, ()) == 0
            assert side.serve(prompt, ()) == cached
            # Reuse lost nothing.
            assert side.serve(prompt, ()) == cached


async def test_a_state_is_kept_at_a_branch_point_once_it_was_seen() -> None:
    rng = random.Random(0)
    shared = [rng.randrange(9000) for _ in range(1500)]
    prompts = [[*shared, *(rng.randrange(9000) for _ in range(700))] for _ in range(5)]
    async with PrefillSide() as side:
        assert [side.serve(prompt, ()) for prompt in prompts] == [0, 0, 1488, 1488, 1488]


async def test_chats_with_a_long_shared_first_message_reuse_it(
    real_tokenizer: Tokenizer,
) -> None:
    encoder = encoder_of(real_tokenizer, template("3.5"))
    text = "The train leaves at noon. " * 100
    chats = [
        ChatInput(messages=(Message(role="user", content=f"{text} Who takes the {word} one?"),))
        for word in ("first", "second", "last", "red")
    ]
    async with PrefillSide() as side:
        prompts = [encoder.encode(chat) for chat in chats]
        cached = [side.serve(prompt, encoder.branch_points(prompt)) for prompt in prompts]

    assert cached[0] == 0
    assert min(cached[2:]) >= len(prompts[0]) - 3 * PAGE_TOKENS


@pytest.mark.parametrize(
    ("num_slots", "num_sessions", "num_turns"), [(96, 20, 30), (24, 20, 12), (8, 4, 12), (4, 1, 40)]
)
async def test_sessions_reuse_their_prompts_with_little_more_than_a_slot_each(
    num_slots: int, num_sessions: int, num_turns: int
) -> None:
    pressure = await press(num_slots=num_slots, num_sessions=num_sessions, num_turns=num_turns)

    assert len(pressure.turns) == num_sessions * (num_turns - 1)
    assert pressure.missed_turns == 0


async def test_without_slots_for_states_prompts_are_still_computed() -> None:
    pressure = await press(num_slots=1, num_sessions=2, num_turns=3)

    assert {turn.cached_tokens for turn in pressure.turns} == {0}


async def test_a_long_prompt_leaves_few_states() -> None:
    async with PrefillSide() as side:
        side.serve([7] * 200_000, ())

        assert side.memory.slots.counts().cached <= 6


async def test_the_bound_is_that_of_the_previous_turn(real_tokenizer: Tokenizer) -> None:
    encoder = encoder_of(real_tokenizer, template("3.5"))
    chat = ChatInput(messages=(Message(role="user", content="When? " * 40),))

    (again,) = await follow(encoder, [chat, chat])

    assert again.shared_tokens == again.prompt_tokens
    assert again.bound == (again.prompt_tokens - 1) // PAGE_TOKENS * PAGE_TOKENS
