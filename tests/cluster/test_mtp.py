"""Speculative decoding: the same tokens as without drafts, greedy and sampled; nothing leaks."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness.checkpoint import TEXT_FILES
from decode_worker.config import DecodeConfig
from segue.api.turn import TokenDelta
from segue.api.types import SamplingParams, StopConditions, TextInput, TokenInput
from segue.launch.config import Config
from segue.sdk.client import Answer
from tests.cluster.conftest import ENGINE, LocalCluster, local_cluster
from tests.cluster.moving_placement import moving_place, pull_always
from tests.cluster.oracle import oracle_of
from tests.cluster.waiting import is_idle, wait_until_idle

NUM_SAMPLED = 30


def drafting(max_drafts: int, *, local_tokens: int = 256) -> Config:
    """Always drafts exactly this many tokens, if the answer has room."""
    config = Config(
        engine=ENGINE, decode=DecodeConfig(max_drafts=max_drafts, adaptive_drafts=False)
    )
    router = replace(config.router, local_prefill_max_tokens=local_tokens)
    return replace(config, router=router)


def served(name: str, request: pytest.FixtureRequest, demo: Path, tmp_path: Path) -> Path:
    if name == "demo":
        return demo
    folder = Path(shutil.copytree(request.getfixturevalue(name), tmp_path / "model"))
    for name in TEXT_FILES:
        shutil.copy(demo / name, folder / name)
    return folder


def prompts(count: int) -> list[tuple[int, ...]]:
    source = random.Random(5)
    return [
        tuple(source.randrange(5, 290) for _ in range(source.randrange(1, 70)))
        for _ in range(count)
    ]


ALWAYS = [("mtp_dense", 1), ("mtp_dense", 3), ("mtp_moe", 2), ("mtp_moe", 4), ("demo", 4)]
MORE = [("mtp_dense", 2), ("mtp_dense", 4), ("mtp_moe", 1), ("mtp_moe", 3), ("demo", 1)]


@pytest.mark.parametrize(
    ("name", "max_drafts"),
    [*ALWAYS, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)],
)
async def test_greedy_answers_are_those_of_transformers(
    name: str, max_drafts: int, request: pytest.FixtureRequest, demo: Path, tmp_path: Path
) -> None:
    """Turns that start and end at different steps, and second turns that find a prefix. Drafts of
    random layers are hardly ever right, the demo's often are.
    """
    folder = served(name, request, demo, tmp_path)
    asked = list(zip(prompts(6), [4, 7, 11, 17, 23, 28], strict=True))

    async def two_turns(
        cluster: LocalCluster, index: int, prompt: tuple[int, ...], length: int
    ) -> list[tuple[tuple[int, ...], Answer]]:
        records = []
        for _ in range(2):
            answer = await cluster.client.generate(
                TokenInput(prompt),
                session_id=f"session-{index}",
                stop=StopConditions(max_tokens=length, ignore_eos=True),
            )
            records.append((prompt, answer))
            prompt = (*prompt, *answer.token_ids, 7, 8, 9)
        return records

    async with local_cluster(folder, drafting(max_drafts, local_tokens=16)) as cluster:
        records = await asyncio.gather(
            *(two_turns(cluster, index, *turn) for index, turn in enumerate(asked))
        )
        status = await wait_until_idle(cluster.client)

    turns = [turn for of_session in records for turn in of_session]

    def wrong() -> list[int]:
        return oracle_of(folder).wrong([(prompt, answer.token_ids) for prompt, answer in turns])

    assert await asyncio.to_thread(wrong) == []
    assert is_idle(status), status
    usages = [answer.end.usage for _, answer in turns]
    assert all(usage.drafted_tokens > 0 for usage in usages)
    assert all(usage.accepted_tokens <= usage.drafted_tokens for usage in usages)


def parameters() -> list[tuple[SamplingParams, StopConditions]]:
    source = random.Random(9)
    drawn = []
    for seed in range(NUM_SAMPLED):
        params = SamplingParams(
            seed=seed,
            temperature=source.choice([0.0, 0.3, 0.7, 1.0]),
            top_k=source.choice([0, 0, 5, 40]),
            top_p=source.choice([1.0, 0.9]),
            min_p=source.choice([0.0, 0.05]),
            repetition_penalty=source.choice([1.0, 1.0, 1.2]),
            presence_penalty=source.choice([0.0, 0.0, 0.5]),
            frequency_penalty=source.choice([0.0, 0.0, 0.4]),
            logit_bias=source.choice([{}, {}, {65: 2.0}]),
            logprobs=source.choice([None, None, 2]),
        )
        stop = StopConditions(
            max_tokens=source.randrange(1, 20),
            stop_strings=source.choice([(), (), ("e ",)]),
        )
        drawn.append((params, stop))
    return drawn


async def sampled(demo: Path, config: Config) -> tuple[list[Answer], int]:
    """All answers, and the number of accepted drafts."""
    texts = ["My name is Ada. What is my name?", "Tell me a joke.", "The code is 73", "Hello"]
    gate = asyncio.Semaphore(8)

    async with local_cluster(demo, config) as cluster:

        async def one(index: int, params: SamplingParams, stop: StopConditions) -> Answer:
            async with gate:
                text = TextInput(texts[index % len(texts)])
                return await cluster.client.generate(text, sampling=params, stop=stop)

        answers = await asyncio.gather(*(one(i, *p) for i, p in enumerate(parameters())))
    return list(answers), sum(answer.end.usage.accepted_tokens for answer in answers)


async def test_sampled_turns_are_the_same_with_and_without_drafts(demo: Path) -> None:
    without, none = await sampled(demo, drafting(0))
    with_drafts, num_accepted = await sampled(demo, drafting(3))
    learned, num_learned = await sampled(demo, Config(engine=ENGINE))

    assert none == 0
    assert num_accepted > NUM_SAMPLED // 2
    # The number of drafts it learns depends on this machine's speed; it does try some.
    assert num_learned > 0
    for one, *others in zip(without, with_drafts, learned, strict=True):
        for other in others:
            assert other.token_ids == one.token_ids
            assert other.text == one.text
            assert other.end.finish_reason == one.end.finish_reason
            assert other.end.stop_match == one.end.stop_match
            of_one, of_other = ([e.logprob for e in a.logprobs] for a in (one, other))
            assert of_other == pytest.approx(of_one, abs=1e-4)


async def conversation(cluster: LocalCluster) -> list[Answer]:
    """Five sampled turns."""
    source = random.Random(2)
    history = [source.randrange(5, 290) for _ in range(120)]
    answers = []
    for _ in range(5):
        answer = await cluster.client.generate(
            TokenInput(tuple(history)),
            session_id="agent",
            sampling=SamplingParams(seed=3, temperature=0.8),
            stop=StopConditions(max_tokens=21, ignore_eos=True),
        )
        cluster.check_invariants()
        answers.append(answer)
        history += [*answer.token_ids, *(source.randrange(5, 290) for _ in range(25))]
    return answers


async def test_a_session_that_changes_workers_gets_the_same_tokens_with_drafts(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with local_cluster(demo, drafting(0)) as cluster:
        expected = await conversation(cluster)
    monkeypatch.setattr("router.placement.placing.place", moving_place)
    pull_always(monkeypatch)
    config = drafting(4, local_tokens=0)
    async with local_cluster(demo, config, prefill=2, decode=2) as cluster:
        moved = await conversation(cluster)

    assert [a.token_ids for a in moved] == [a.token_ids for a in expected]
    assert len({answer.end.decode_worker for answer in moved}) == 2
    assert sum(answer.end.usage.accepted_tokens for answer in moved) > 0


async def test_turns_cancelled_between_drafts_leave_nothing(demo: Path) -> None:
    async with local_cluster(demo, drafting(4)) as cluster:

        async def cut_short(prompt: Sequence[int], after: int) -> None:
            turn = cluster.client.stream(
                TokenInput(tuple(prompt)), stop=StopConditions(max_tokens=60, ignore_eos=True)
            )
            num_tokens = 0
            async for event in turn:
                num_tokens += len(event.token_ids) if isinstance(event, TokenDelta) else 0
                if num_tokens > after:
                    break
            await turn.aclose()

        await asyncio.gather(*(cut_short(p, 3 * i) for i, p in enumerate(prompts(12))))
        status = await wait_until_idle(cluster.client)
        cluster.check_invariants()

    assert is_idle(status), status
