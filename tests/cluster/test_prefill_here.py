"""A decode worker that prefills a short suffix itself: the same tokens, and nothing is shipped."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from segue.api.errors import NotResident
from segue.api.prompt import Prompt
from segue.api.turn import TurnResult, TurnSpec
from segue.api.types import Sampling, SessionId, StopConditions, StopRules, TokenInput, TurnId
from tests.cluster.conftest import LocalCluster, local_cluster
from tests.cluster.direct_turn import DirectTurn
from tests.cluster.oracle import Oracle
from tests.cluster.waiting import is_idle, wait_until_idle

FIRST = [random.Random(3).randrange(5, 290) for _ in range(150)]
ANSWER_TOKENS = 21


@pytest.fixture
async def cluster(demo: Path) -> AsyncIterator[LocalCluster]:
    async with local_cluster(demo) as cluster:
        yield cluster


def spec(name: str, prompt: Sequence[int], **sampling: float) -> TurnSpec:
    return TurnSpec(
        turn_id=TurnId(name),
        session_id=SessionId("agent"),
        context=Prompt(tuple(prompt)),
        sampling=Sampling(seed=5, temperature=0.0, **sampling),
        stop=StopRules(max_tokens=ANSWER_TOKENS),
    )


async def first_turn(cluster: LocalCluster) -> list[int]:
    """The history after a turn whose prompt a prefill worker computed."""
    answer = await cluster.client.generate(
        TokenInput(tuple(FIRST)),
        session_id="agent",
        stop=StopConditions(max_tokens=ANSWER_TOKENS, ignore_eos=True),
    )
    return [*FIRST, *answer.token_ids]


async def answer_here(cluster: LocalCluster, turn: TurnSpec) -> tuple[list[int], TurnResult]:
    direct = DirectTurn(cluster.decode[0], turn)
    await direct.start()
    answered = await direct.answer()
    cluster.check_invariants()
    return answered


async def test_a_session_continues_with_the_tokens_of_transformers(
    cluster: LocalCluster, demo: Path
) -> None:
    history = await first_turn(cluster)
    sizes = [1, 16, 40, 7]
    records = []
    for index, size in enumerate(sizes):
        prompt = [*history, *range(10, 10 + size)]
        answer, result = await answer_here(cluster, spec(f"turn-{index}", prompt))
        records.append((prompt, answer, result))
        history = [*prompt, *answer]

    def wrong() -> list[int]:
        oracle = Oracle(demo)
        return [
            i
            for i, (prompt, answer, _) in enumerate(records)
            if not oracle.would_say(prompt, answer)
        ]

    assert await asyncio.to_thread(wrong) == []
    for (prompt, _, result), size in zip(records, sizes, strict=True):
        usage, report = result.usage, result.report
        assert usage.cached_tokens + report.computed_tokens == len(prompt)
        # The new tokens, the answer's last token, and the tokens after the last full page.
        assert size < report.computed_tokens <= size + 1 + 16
        assert usage.shipped_bytes == 0
        assert report.prefill_s > 0
        assert result.kept_checkpoint_tokens >= len(prompt) // 16 * 16


async def test_it_computes_while_other_answers_continue(cluster: LocalCluster, demo: Path) -> None:
    history = await first_turn(cluster)
    prompts = [[*history, *range(20, 20 + size)] for size in (5, 17, 30)]

    records = await asyncio.gather(
        *(answer_here(cluster, spec(f"turn-{i}", prompt)) for i, prompt in enumerate(prompts))
    )

    def wrong() -> list[int]:
        oracle = Oracle(demo)
        return [
            i for i, prompt in enumerate(prompts) if not oracle.would_say(prompt, records[i][0])
        ]

    assert await asyncio.to_thread(wrong) == []


async def test_a_missing_prefix_is_refused_with_the_numbers(cluster: LocalCluster) -> None:
    await first_turn(cluster)

    with pytest.raises(NotResident, match=r"100 tokens of turn other .* at most 64"):
        await DirectTurn(cluster.decode[0], spec("other", range(20, 120))).start()
    status = await wait_until_idle(cluster.client)

    assert is_idle(status), status


async def test_a_stopped_turn_leaves_nothing(cluster: LocalCluster) -> None:
    history = await first_turn(cluster)
    direct = DirectTurn(cluster.decode[0], spec("turn-a", [*history, 7, 8]))

    await direct.start()
    direct.stop()
    status = await wait_until_idle(cluster.client)

    assert is_idle(status), status
    cluster.check_invariants()
