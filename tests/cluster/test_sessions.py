"""Sessions over several turns: the tokens are those from scratch, and only new tokens are
shipped.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from decode_worker.config import DecodeConfig
from prefill_worker.config import PrefillConfig
from router.config import RouterConfig
from segue.api.errors import InvalidRequest, NotFound
from segue.api.types import StopConditions, TokenInput
from segue.engine.config import EngineConfig
from segue.launch.config import Config
from tests.cluster.conftest import ENGINE, local_cluster, num_evicted
from tests.cluster.growing_session import (
    ANSWER_TOKENS,
    FIRST_TOKENS,
    NEW_TOKENS,
    NUM_TURNS,
    TurnRecord,
    converse,
    wrong_turns,
)
from tests.cluster.moving_placement import moving_place, pull_always
from tests.cluster.scarce_memory import kinds_and_pages, memory_for
from tests.cluster.waiting import is_idle, wait_until_idle


def without_local(**parts: Any) -> Config:
    """Every prompt is computed by a prefill worker: local prefill has its own tests."""
    return Config(engine=ENGINE, router=RouterConfig(local_prefill_max_tokens=0), **parts)


@pytest.fixture(params=["dense", "moe"])
def served(
    request: pytest.FixtureRequest, tiny_dense: Path, tiny_moe: Path, demo: Path, tmp_path: Path
) -> Path:
    """A random checkpoint with the demo's tokenizer, so that it can be served."""
    source = {"dense": tiny_dense, "moe": tiny_moe}[request.param]
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo / name, folder)
    return folder


EVERY_KIND = pytest.mark.parametrize(
    ("served", "page_tokens"), kinds_and_pages(), indirect=["served"]
)


@pytest.mark.parametrize("page_tokens", [16, 64])
async def test_a_session_with_a_fork_answers_like_transformers(
    served: Path, page_tokens: int
) -> None:
    config = Config(engine=replace(ENGINE, page_tokens=page_tokens))

    async with local_cluster(served, config) as cluster:
        turns = await converse(cluster, fork_at=4)
        status = await wait_until_idle(cluster.client)

    assert await wrong_turns(turns, served) == []
    assert is_idle(status), status


async def test_only_new_tokens_are_computed_and_shipped(demo: Path) -> None:
    async with local_cluster(demo, without_local()) as cluster:
        turns = await converse(cluster, 12)
        layout = cluster.decode[0].layout

    later = [turn.usage for turn in turns[1:]]
    new_pages = layout.num_pages_for(NEW_TOKENS + ANSWER_TOKENS) + 1
    bound = 1.1 * (new_pages * layout.page_bytes + layout.slot_bytes)
    assert all(usage.resident_tokens > 0 for usage in later)
    assert max(usage.shipped_bytes for usage in later) <= bound
    reused = [(u.cached_tokens + u.pulled_tokens) / u.prompt_tokens for u in later]
    # The history is short at first, and the new tokens are a large part of it.
    assert min(reused) > 0.6
    assert reused[-1] > 0.9


async def test_scarce_memory_costs_only_time(demo: Path) -> None:
    engine = EngineConfig(
        max_running=2, max_checkpoints=3, cache_bytes=17 << 18, num_threads=1, page_tokens=16
    )

    async with local_cluster(demo, Config(engine=engine)) as cluster:
        turns = await converse(cluster)
        evicted = num_evicted(*cluster.prefill, *cluster.decode)

    assert evicted > 0
    assert await wrong_turns(turns, demo) == []


@EVERY_KIND
async def test_sessions_that_evict_each_other_every_turn_answer_the_same(
    served: Path, page_tokens: int
) -> None:
    first_tokens = 700
    # The longest prompt, of the turn before the fork, and its answer; then two shared prefixes.
    num_tokens = first_tokens + 4 * (NEW_TOKENS + ANSWER_TOKENS)
    engine = memory_for(served, num_tokens, page_tokens=page_tokens)

    async with local_cluster(served, Config(engine=engine)) as cluster:
        conversations = await asyncio.gather(
            *(
                converse(cluster, fork_at=4, name=f"s-{seed}", seed=seed, first_tokens=first_tokens)
                for seed in (1, 2)
            )
        )
        evicted = num_evicted(cluster.decode[0])

    turns = [turn for conversation in conversations for turn in conversation]
    assert evicted >= len(turns)
    assert await wrong_turns(turns, served) == []


async def test_sessions_that_move_every_turn_answer_the_same(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversations = await moved_every_turn(demo, ENGINE, monkeypatch, num_sessions=2, num_turns=6)

    assert await wrong_turns([turn for turns in conversations for turn in turns], demo) == []


async def moved_every_turn(
    folder: Path,
    engine: EngineConfig,
    monkeypatch: pytest.MonkeyPatch,
    *,
    num_sessions: int,
    num_turns: int,
) -> list[list[TurnRecord]]:
    monkeypatch.setattr("router.placement.placing.place", moving_place)
    pull_always(monkeypatch)
    config = replace(without_local(), engine=engine)

    async with local_cluster(folder, config, prefill=2, decode=2) as cluster:
        conversations = await asyncio.gather(
            *(converse(cluster, num_turns, name=f"s-{n}") for n in range(num_sessions))
        )

    for turns in conversations:
        pairs = itertools.pairwise(turn.end for turn in turns)
        moved = [
            (one.prefill_worker, one.decode_worker) != (other.prefill_worker, other.decode_worker)
            for one, other in pairs
        ]
        assert all(moved)
        assert any(turn.usage.pulled_tokens for turn in turns)
    return conversations


@EVERY_KIND
async def test_a_session_of_any_kind_that_moves_every_turn_answers_the_same(
    served: Path, page_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = replace(ENGINE, page_tokens=page_tokens)

    (turns,) = await moved_every_turn(
        served, engine, monkeypatch, num_sessions=1, num_turns=NUM_TURNS
    )

    assert await wrong_turns(turns, served) == []


@pytest.fixture(params=["everything", "no residency", "no prefix cache", "no pull"])
async def mode(
    request: pytest.FixtureRequest, demo: Path
) -> AsyncIterator[tuple[str, list[TurnRecord]]]:
    config = without_local(
        decode=DecodeConfig(residency=request.param != "no residency"),
        prefill=PrefillConfig(
            prefix_cache=request.param != "no prefix cache", pull=request.param != "no pull"
        ),
    )
    async with local_cluster(demo, config) as cluster:
        yield request.param, await converse(cluster, 5)


async def test_with_any_part_switched_off_the_answers_are_the_same(
    mode: tuple[str, list[TurnRecord]], demo: Path
) -> None:
    name, turns = mode
    last = turns[-1].usage

    assert await wrong_turns(turns, demo) == []
    assert (last.resident_tokens > 0) == (name != "no residency")
    assert (last.cached_tokens > 0) == (name != "no prefix cache")
    if name in ("no pull", "no residency", "no prefix cache"):
        assert last.pulled_tokens == 0


async def test_sessions_are_listed_renewed_forked_and_released(demo: Path) -> None:
    async with local_cluster(demo) as cluster:
        client = cluster.client
        (turn,) = await converse(cluster, 1)
        (listed,) = await client.sessions()
        renewed_s = await client.renew_session("parent", 30.0)
        await client.fork_session("parent", "child")
        child = await client.generate(
            TokenInput((*turn.prompt, *turn.answer, 7)),
            session_id="child",
            stop=StopConditions(max_tokens=3, ignore_eos=True),
        )
        was_known = await client.release_session("parent")

        with pytest.raises(NotFound, match="nothing is kept of this session"):
            await client.renew_session("parent")
        with pytest.raises(NotFound, match="no decision is remembered for this session"):
            await client.explain("parent")
        with pytest.raises(NotFound, match="nothing is kept of this session"):
            await client.fork_session("nobody", "child-2")
        with pytest.raises(InvalidRequest, match="name of a new session"):
            await client.fork_session("child", "child")
        with pytest.raises(InvalidRequest, match="lease_s must be above 0"):
            await client.renew_session("child", -1.0)
        status = await wait_until_idle(client)

    assert listed.session_id == "parent"
    assert listed.kept_tokens == FIRST_TOKENS + ANSWER_TOKENS - (FIRST_TOKENS + ANSWER_TOKENS) % 16
    assert renewed_s == 30.0
    assert child.end.usage.resident_tokens == listed.kept_tokens
    assert was_known
    assert is_idle(status), status


async def test_a_session_with_an_expired_lease_keeps_its_pages_until_they_are_needed(
    demo: Path,
) -> None:
    config = Config(engine=ENGINE, decode=DecodeConfig(lease_s=0.001))

    async with local_cluster(demo, config) as cluster:
        turns = await converse(cluster, 2)
        with pytest.raises(NotFound, match="has no lease here"):
            await cluster.client.renew_session("parent")

    # The memory was not needed, so the pages were still there.
    assert turns[1].usage.resident_tokens > 0
