"""Prompts whose log-probabilities are wanted, between two workers that hold parts of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from prefill_worker.pull import PullEstimate
from segue.api.errors import InvalidRequest, NotResident
from segue.api.turn import ComputedOnDecode, PrefixHolder, TurnSpec
from segue.api.types import Epoch, Sampling
from tests.workers.fake_runner import PAGE_TOKENS, answer_to, scores_of
from tests.workers.two_workers import (
    DECODE,
    NUM_ANSWERED,
    ShippedTurn,
    TwoWorkers,
    spec,
    until,
    wrongs,
)

EARLIER = tuple(range(40, 54))
PROMPT = (*EARLIER, *answer_to(EARLIER, NUM_ANSWERED), 60, 61)
"""Continues an earlier turn, after which decode has a state at 16 tokens."""


@pytest.fixture
async def workers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TwoWorkers]:
    """Prefill pulls whatever it may."""
    always = PullEstimate(compute_s=1.0, move_s=0.0)
    monkeypatch.setattr("prefill_worker.pull.estimate_pull", lambda *_, **__: always)
    with contextlib.ExitStack() as stack:
        workers = TwoWorkers(stack)
        yield workers
        await workers.close()


def scored(name: str, num_top: int = 2) -> TurnSpec:
    return replace(spec(name, PROMPT), sampling=Sampling(prompt_logprobs=num_top))


async def answered(
    workers: TwoWorkers, turn: TurnSpec, holder: PrefixHolder | None = None
) -> ShippedTurn:
    shipped = ShippedTurn(workers, turn, holder)
    shipped.start()
    await until(shipped.is_over)
    assert (shipped.errors, wrongs(workers)) == ([], [])
    num_left = NUM_ANSWERED - turn.num_answered
    assert shipped.tokens == answer_to(turn.context.tokens, num_left)
    return shipped


@pytest.mark.parametrize("num_top", [0, 3])
async def test_a_prompt_is_scored_from_its_start_whatever_is_cached(
    workers: TwoWorkers, num_top: int
) -> None:
    """On both workers, and on decode alone, which could lend it."""
    expected = scores_of(PROMPT[1:], num_top).of_prompt(scored("a").prompt_ids)
    await answered(workers, spec("earlier", EARLIER))
    plain = await answered(workers, spec("plain", PROMPT))
    holder = PrefixHolder(
        worker_id=DECODE, epoch=Epoch(1), address=f"{DECODE}:1", checkpoint_tokens=16
    )
    for name, held in (("first", None), ("second", None), ("held", holder)):
        if held is not None:
            memory = workers.prefill._memory
            memory.cache.make_room(memory.pages.total, memory.slots.total)
        turn = await answered(workers, scored(name, num_top), held)

        assert turn.prompt_logprobs == expected
        assert turn.result is not None
        usage, report = turn.result.usage, turn.result.report
        assert (usage.cached_tokens, usage.pulled_tokens) == (0, 0)
        assert report.computed_tokens == len(PROMPT)
        # Decode has all full pages: only the last one and the state are shipped.
        assert usage.resident_tokens == len(PROMPT) // PAGE_TOKENS * PAGE_TOKENS
    assert plain.prompt_logprobs is None


async def test_the_prefix_of_a_scored_turn_is_used_by_others(workers: TwoWorkers) -> None:
    await answered(workers, scored("scored"))
    turn = await answered(workers, spec("plain", PROMPT))

    assert turn.result is not None
    assert turn.result.usage.cached_tokens == len(PROMPT) // PAGE_TOKENS * PAGE_TOKENS


async def test_a_continued_answer_is_not_part_of_the_prompt(workers: TwoWorkers) -> None:
    turn = await answered(workers, replace(scored("on", 0), num_answered=2))

    assert turn.prompt_logprobs == scores_of(PROMPT[1:-2], 0).of_prompt(scored("a").prompt_ids[:-2])


async def test_a_prompt_of_one_token_has_none(workers: TwoWorkers) -> None:
    turn = replace(spec("one", PROMPT[:1]), sampling=Sampling(prompt_logprobs=1))
    logprobs = (await answered(workers, turn)).prompt_logprobs

    assert logprobs is not None
    assert (list(logprobs.token_ids), len(logprobs.logprobs)) == ([PROMPT[0]], 0)


async def test_a_decode_worker_does_not_score_prompts(workers: TwoWorkers) -> None:
    await answered(workers, spec("earlier", PROMPT))

    with pytest.raises(NotResident, match="use a prefill worker"):
        await workers.decode.answer(
            scored("here"), ComputedOnDecode(64), lambda _: None, timeout_s=5.0
        )
    assert wrongs(workers) == []


async def test_more_than_can_be_reported_is_refused_with_both_numbers(workers: TwoWorkers) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segue.text.limits.MAX_PROMPT_LOGPROBS", 56)
        shipped = ShippedTurn(workers, scored("many", 2))
        shipped.start()
        await until(shipped.is_over)

    assert wrongs(workers) == []
    assert isinstance(shipped.errors[0], InvalidRequest)
    assert "has 57 log-probabilities, but at most 56 are reported" in str(shipped.errors[0])
