"""Prompts with a shared prefix in a whole cluster: what is reused, and the tokens."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from benchmarks.reuse.sweep import num_shared
from benchmarks.reuse.talks import talk
from prefill_worker.config import PrefillConfig
from router.config import RouterConfig
from segue.api.types import (
    ChatInput,
    Message,
    SamplingParams,
    StopConditions,
    TokenInput,
    TurnInput,
)
from segue.launch.config import Config
from tests.cluster.conftest import ENGINE, LocalCluster, local_cluster
from tests.cluster.oracle import oracle_of
from tests.real_vocabulary import MakeReal, template

PAGE = 16
SPLIT = Config(engine=ENGINE, router=RouterConfig(local_prefill_max_tokens=0))
REAL = Config(engine=replace(ENGINE, cache_bytes=64 << 20))


@dataclass(frozen=True, slots=True)
class TurnRecord:
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    reused_tokens: int
    is_local: bool


async def say(
    cluster: LocalCluster, turn_input: TurnInput, session_id: str = "", max_tokens: int = 6
) -> TurnRecord:
    prompts = cluster.router._prompts.encoder
    answer = await cluster.client.generate(
        turn_input,
        session_id=session_id,
        sampling=SamplingParams(temperature=0.0, seed=1),
        stop=StopConditions(max_tokens=max_tokens, ignore_eos=True),
    )
    usage = answer.end.usage
    return TurnRecord(
        prompt=prompts.encode(turn_input),
        answer=tuple(answer.token_ids),
        reused_tokens=usage.cached_tokens + usage.pulled_tokens,
        is_local=answer.end.prefill_worker == answer.end.decode_worker,
    )


def ids(seed: int, number: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(5, 290) for _ in range(number))


async def check_tokens(demo: Path, records: Sequence[TurnRecord]) -> None:
    """The tokens equal those of `transformers`, which computes each prompt from its first token."""

    def wrong() -> list[int]:
        return oracle_of(demo).wrong([(one.prompt, one.answer) for one in records])

    assert await asyncio.to_thread(wrong) == []


async def test_prompts_with_a_shared_prefix_resume_from_a_shared_state(demo: Path) -> None:
    shared = ids(0, 150)
    prompts = [
        *(ids(1, 128), ids(1, 128), ids(2, 129), ids(2, 129)),
        *((*shared, *ids(seed, 60)) for seed in range(3, 7)),
    ]
    async with local_cluster(demo, SPLIT) as cluster:
        records = [await say(cluster, TokenInput(prompt)) for prompt in prompts]

    assert [one.reused_tokens for one in records] == [0, 112, 0, 128, 0, 0, 144, 144]
    await check_tokens(demo, records)


async def test_without_a_prefix_cache_the_tokens_are_the_same(demo: Path) -> None:
    prompts = [(*ids(0, 40), *ids(seed, 10)) for seed in (1, 2, 3, 1)]
    config = replace(SPLIT, prefill=PrefillConfig(prefix_cache=False))
    async with local_cluster(demo, SPLIT) as cluster:
        reusing = [await say(cluster, TokenInput(prompt)) for prompt in prompts]
    async with local_cluster(demo, config) as cluster:
        computing = [await say(cluster, TokenInput(prompt)) for prompt in prompts]

    assert [one.reused_tokens for one in reusing] == [0, 0, 32, 48]
    assert [one.reused_tokens for one in computing] == [0, 0, 0, 0]
    assert [one.answer for one in reusing] == [one.answer for one in computing]


def chats_of(number: int) -> list[ChatInput]:
    """A session whose client sends back a different answer: each turn diverges from the last."""
    messages = [Message(role="user", content="When does the train leave?" + " Well?" * number)]
    chats = []
    for turn in range(5):
        chats.append(ChatInput(messages=tuple(messages)))
        messages += [
            Message(role="assistant", content=f"At {turn + 9}."),
            Message(role="user", content="And then?"),
        ]
    return chats


@pytest.mark.parametrize("max_local", [0, 256])
async def test_a_re_rendered_history_is_reused_up_to_the_difference(
    demo: Path, max_local: int
) -> None:
    config = replace(SPLIT, router=RouterConfig(local_prefill_max_tokens=max_local))
    records: list[TurnRecord] = []
    async with local_cluster(demo, config) as cluster:
        for number in range(3):
            turns = [
                await say(cluster, chat, f"session-{number}", max_tokens=17)
                for chat in chats_of(number)
            ]
            check_reuse(turns)
            records += turns
    await check_tokens(demo, records)


# `tests/benchmarks/test_reuse.py` has all of them, without a model.
@pytest.mark.parametrize(
    ("kind", "enable_thinking"),
    [
        ("3.5", True),
        ("3.8", False),
        pytest.param("3.5", False, marks=pytest.mark.slow),
        pytest.param("3.8", True, marks=pytest.mark.slow),
    ],
)
async def test_turns_with_the_real_vocabulary_reuse_all_that_the_template_keeps(
    kind: str, enable_thinking: bool, make_real_checkpoint: MakeReal
) -> None:
    async with local_cluster(make_real_checkpoint(template(kind)), REAL) as cluster:
        for more in (0, 5, 11):
            chats = talk(more, num_more=more, enable_thinking=enable_thinking, num_turns=5)
            check_reuse([await say(cluster, chat, f"session-{more}") for chat in chats])


def check_reuse(turns: Sequence[TurnRecord]) -> None:
    for before, turn in itertools.pairwise(turns):
        usable = min(num_shared(before.prompt, turn.prompt), len(turn.prompt) - 1)
        assert turn.reused_tokens >= usable // PAGE * PAGE > 0
