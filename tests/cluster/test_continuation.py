"""Conversations through the SDK get the answers that `transformers` computes from scratch."""

from __future__ import annotations

import asyncio
import itertools
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from router.config import RouterConfig
from segue.api.turn import FinishReason
from segue.engine.config import EngineConfig
from segue.launch.config import Config
from segue.sdk.client import Client
from tests.checkpoints import Variant
from tests.cluster.conftest import ENGINE, local_cluster, num_evicted
from tests.cluster.conversation import (
    TurnRecord,
    Wire,
    converse,
    converse_briefly,
    with_thinking,
    wrong_turns,
)
from tests.cluster.moving_placement import moving_place, pull_always
from tests.cluster.scarce_memory import kinds_and_pages, memory_for
from tests.cluster.waiting import is_idle, wait_until_idle
from tests.conftest import MakeCheckpoint

EVERY_KIND = pytest.mark.parametrize(
    ("random_thinking", "page_tokens"),
    kinds_and_pages(always=("moe", 64)),
    indirect=["random_thinking"],
)


@pytest.fixture
def thinking(demo: Path, tmp_path: Path) -> Path:
    return with_thinking(demo, demo, tmp_path / "thinking")


@pytest.fixture(params=["dense", "moe"])
def random_thinking(
    request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint, demo: Path, tmp_path: Path
) -> Path:
    """Random weights with the demo's vocabulary: it generates arbitrary text."""
    changes: dict[str, object] = {"vocab_size": 1536}
    source = make_checkpoint(Variant(is_moe=request.param == "moe", changes=changes))
    return with_thinking(source, demo, tmp_path / "random")


async def scrape(client: Client) -> str:
    """The router's metrics."""
    address = (await client.status()).router.metrics_address

    def read() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
            text: str = page.read().decode()
        return text

    return await asyncio.to_thread(read)


async def test_a_history_that_renders_as_it_was_generated_is_not_recomputed(demo: Path) -> None:
    async with local_cluster(demo) as cluster:
        wire = Wire(cluster.client)
        turns = await converse(cluster)

    calls = [turn.messages[-2].tool_calls for turn in turns if not turn.is_question]
    assert [call.name for (call,) in calls] == [
        "get_weather",
        "get_price",
        "get_time",
        "get_weather",
    ]
    assert await wrong_turns(turns, demo) == []
    assert {turn.end.finish_reason for turn in turns} == {FinishReason.STOP}
    assert [turn.end.usage.rerendered_tokens for turn in turns] == [0] * len(turns)
    # First the system message and question, then always the last answer and the messages after it.
    assert wire.num_messages == [2] * len(turns)


async def test_only_tokens_that_the_template_drops_count_as_re_rendered(thinking: Path) -> None:
    config = Config(engine=ENGINE, router=RouterConfig(local_prefill_max_tokens=0))

    async with local_cluster(thinking, config) as cluster:
        turns = await converse(cluster)
        metrics = await scrape(cluster.client)

    assert await wrong_turns(turns, thinking) == []
    counted = [turn.end.usage.rerendered_tokens > 0 for turn in turns]
    assert counted == [False, *(turn.is_question or turn.follows_an_edit for turn in turns[1:])]
    assert counted.count(False) > 1
    lost = sum(turn.end.usage.rerendered_tokens for turn in turns)
    assert f"segue_rerendered_tokens_total {lost:.1f}\n" in metrics
    assert f"segue_rerendered_turns_total {sum(counted):.1f}\n" in metrics
    called = [turn for turn in turns if not turn.is_question and not turn.follows_an_edit]
    assert not any(turn.messages[-2].content for turn in called)
    # The prompt up to the first difference was cached, in full pages.
    for one, other in itertools.pairwise(turn.end.usage for turn in turns[:-1]):
        computed = one.prompt_tokens + one.completion_tokens - 1
        common = min(computed, computed + 1 - other.rerendered_tokens)
        assert other.resident_tokens == common - common % ENGINE.page_tokens


@pytest.mark.parametrize(
    ("random_thinking", "page_tokens", "local_tokens"),
    [
        ("dense", 16, 0),
        ("dense", 16, 256),
        pytest.param("moe", 16, 0, marks=pytest.mark.slow),
        ("moe", 64, 0),
        pytest.param("dense", 64, 0, marks=pytest.mark.slow),
        pytest.param("moe", 16, 256, marks=pytest.mark.slow),
    ],
    indirect=["random_thinking"],
)
async def test_a_session_with_tools_and_a_fork_answers_like_transformers(
    random_thinking: Path, page_tokens: int, local_tokens: int
) -> None:
    config = Config(
        engine=replace(ENGINE, page_tokens=page_tokens),
        router=RouterConfig(local_prefill_max_tokens=local_tokens),
    )

    async with local_cluster(random_thinking, config) as cluster:
        turns = await converse_briefly(cluster)
        status = await wait_until_idle(cluster.client)

    assert await wrong_turns(turns, random_thinking) == []
    assert all(turn.end.usage.rerendered_tokens for turn in turns[1:] if turn.is_question)
    assert is_idle(status), status


async def test_scarce_memory_changes_no_token(thinking: Path) -> None:
    engine = EngineConfig(
        max_running=2, max_checkpoints=3, cache_bytes=7 << 20, num_threads=1, page_tokens=16
    )

    async with local_cluster(thinking, Config(engine=engine)) as cluster:
        turns = [turn for name in ("a", "b") for turn in await converse(cluster, name)]
        evicted = num_evicted(*cluster.prefill, *cluster.decode)

    assert evicted > 0
    assert await wrong_turns(turns, thinking) == []


@EVERY_KIND
async def test_sessions_that_evict_each_other_every_turn_answer_the_same(
    random_thinking: Path, page_tokens: int
) -> None:
    # One session fits, with its longest turn.
    engine = memory_for(random_thinking, 896, page_tokens=page_tokens)

    async with local_cluster(random_thinking, Config(engine=engine)) as cluster:
        by_session = await asyncio.gather(
            *(
                converse_briefly(cluster, name, system=f"You are {name}. " * 20)
                for name in ("a", "b")
            )
        )
        evicted = num_evicted(cluster.decode[0])
        status = await wait_until_idle(cluster.client)

    turns = [turn for session in by_session for turn in session]
    assert evicted >= len(turns)
    assert await wrong_turns(turns, random_thinking) == []
    assert is_idle(status), status


@EVERY_KIND
async def test_a_session_of_any_kind_that_moves_every_turn_answers_the_same(
    random_thinking: Path, page_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = replace(ENGINE, page_tokens=page_tokens)

    turns = await moved_every_turn(random_thinking, engine, monkeypatch)

    assert await wrong_turns(turns, random_thinking) == []


async def test_a_session_that_moves_every_turn_answers_the_same(
    thinking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = await moved_every_turn(thinking, ENGINE, monkeypatch)

    assert await wrong_turns(turns, thinking) == []


async def moved_every_turn(
    folder: Path, engine: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> list[TurnRecord]:
    monkeypatch.setattr("router.placement.placing.place", moving_place)
    pull_always(monkeypatch)
    config = Config(engine=engine, router=RouterConfig(local_prefill_max_tokens=0))

    async with local_cluster(folder, config, prefill=2, decode=2) as cluster:
        turns = await converse(cluster)

    # The last turn is the parent's: the turn before it in this list belongs to the fork.
    for one, other in itertools.pairwise(turn.end for turn in turns[:-1]):
        assert one.prefill_worker != other.prefill_worker
        assert one.decode_worker != other.decode_worker
    return turns
