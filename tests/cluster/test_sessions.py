"""Sessions that stay: the tokens are those from scratch, and only what is new is shipped."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from decode_worker.config import DecodeConfig
from prefill_worker.config import PrefillConfig
from router.config import RouterConfig
from segue.engine.config import EngineConfig
from segue.errors import InvalidRequest, NotFound
from segue.launch.config import Config
from segue.types import StopConditions, TokenInput, TurnEnd, Usage
from tests.cluster.conftest import ENGINE, LocalCluster, local_cluster
from tests.cluster.idle import is_idle, wait_until_idle
from tests.cluster.moving import moving_place, pull_always
from tests.cluster.oracle import Oracle

NUM_TURNS = 12
FIRST_TOKENS = 200
NEW_TOKENS = 41
ANSWER_TOKENS = 37


@dataclass(frozen=True, slots=True)
class Said:
    """One turn of a conversation: what was sent, and what came back."""

    prompt: list[int]
    answer: list[int]
    end: TurnEnd

    @property
    def usage(self) -> Usage:
        return self.end.usage


async def converse(
    cluster: LocalCluster,
    num_turns: int = NUM_TURNS,
    *,
    fork_at: int | None = None,
    name: str = "parent",
) -> list[Said]:
    """Turns that each add to what was said. `fork_at`: that turn goes back to half of the history,
    as a template does that renders it anew, and goes on from there under another session's name.
    """
    source = random.Random(11)
    history = [source.randrange(5, 290) for _ in range(FIRST_TOKENS)]
    session_id = name
    said: list[Said] = []
    for index in range(num_turns):
        if index == fork_at:
            history = history[: len(history) // 2] + [source.randrange(5, 290) for _ in range(9)]
            session_id = "child"
        answer = await cluster.client.generate(
            TokenInput(tuple(history)),
            session_id=session_id,
            stop=StopConditions(max_tokens=ANSWER_TOKENS, ignore_eos=True),
            timeout_s=60,
        )
        cluster.check_invariants()
        said.append(Said(list(history), list(answer.token_ids), answer.end))
        history += [*answer.token_ids, *(source.randrange(5, 290) for _ in range(NEW_TOKENS))]
    return said


def without_local(**parts: Any) -> Config:
    """Every prompt is computed by a prefill worker: what decode may do has tests of its own."""
    return Config(engine=ENGINE, router=RouterConfig(local_prefill_max_tokens=0), **parts)


async def wrong_turns(said: Sequence[Said], folder: Path) -> list[int]:
    """Whose answer is not what `transformers` says to the whole history, from scratch."""

    def look() -> list[int]:
        oracle = Oracle(folder)
        return [
            index
            for index, turn in enumerate(said)
            if not oracle.would_say(turn.prompt, turn.answer)
        ]

    # On a thread: the cluster in this process must go on sending its heartbeats.
    return await asyncio.to_thread(look)


@pytest.fixture(params=["dense", "moe"])
def served(
    request: pytest.FixtureRequest, tiny_dense: Path, tiny_moe: Path, demo: Path, tmp_path: Path
) -> Path:
    """A random checkpoint, with the demo's tokenizer so that it can be served."""
    source = {"dense": tiny_dense, "moe": tiny_moe}[request.param]
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo / name, folder)
    return folder


@pytest.mark.parametrize("page_tokens", [16, 64])
async def test_a_session_with_a_fork_says_what_transformers_says_from_scratch(
    served: Path, page_tokens: int
) -> None:
    config = Config(engine=replace(ENGINE, page_tokens=page_tokens))

    async with local_cluster(served, config) as cluster:
        said = await converse(cluster, fork_at=6)
        status = await wait_until_idle(cluster.client)

    assert await wrong_turns(said, served) == []
    assert is_idle(status), status


async def test_only_what_is_new_is_computed_and_shipped(demo: Path) -> None:
    async with local_cluster(demo, without_local()) as cluster:
        said = await converse(cluster)
        layout = cluster.decode[0].layout

    later = [turn.usage for turn in said[1:]]
    new_pages = layout.num_pages_for(NEW_TOKENS + ANSWER_TOKENS) + 1
    bound = 1.1 * (new_pages * layout.page_bytes + layout.slot_bytes)
    assert all(usage.resident_tokens > 0 for usage in later)
    assert max(usage.shipped_bytes for usage in later) <= bound
    reused = [(u.cached_tokens + u.pulled_tokens) / u.prompt_tokens for u in later]
    # The history is short at first, and what is new a large part of it.
    assert min(reused) > 0.6
    assert reused[-1] > 0.9


async def test_memory_that_is_always_short_costs_time_and_nothing_else(demo: Path) -> None:
    engine = EngineConfig(
        max_running=2, max_checkpoints=3, cache_bytes=7 << 20, num_threads=1, page_tokens=16
    )

    async with local_cluster(demo, Config(engine=engine)) as cluster:
        said = await converse(cluster)
        evicted = sum(worker.num_evicted for worker in (*cluster.prefill, *cluster.decode))

    assert evicted > 0
    assert await wrong_turns(said, demo) == []


async def test_a_session_that_is_moved_every_turn_says_the_same(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.placing.place", moving_place)
    pull_always(monkeypatch)

    async with local_cluster(demo, without_local(), prefill=2, decode=2) as cluster:
        busy = [asyncio.ensure_future(converse(cluster, 8, name=f"s-{n}")) for n in range(2)]
        conversations = [await conversation for conversation in busy]

    assert await wrong_turns([turn for said in conversations for turn in said], demo) == []
    for said in conversations:
        pairs = itertools.pairwise(turn.end for turn in said)
        moved = [
            (one.prefill_worker, one.decode_worker) != (other.prefill_worker, other.decode_worker)
            for one, other in pairs
        ]
        assert all(moved)
        assert any(turn.usage.pulled_tokens for turn in said)


@pytest.fixture(params=["everything", "no residency", "no prefix cache", "no pull"])
async def mode(request: pytest.FixtureRequest, demo: Path) -> AsyncIterator[tuple[str, list[Said]]]:
    config = without_local(
        decode=DecodeConfig(residency=request.param != "no residency"),
        prefill=PrefillConfig(
            prefix_cache=request.param != "no prefix cache", pull=request.param != "no pull"
        ),
    )
    async with local_cluster(demo, config) as cluster:
        yield request.param, await converse(cluster, 5)


async def test_each_part_can_be_switched_off_and_says_the_same(
    mode: tuple[str, list[Said]], demo: Path
) -> None:
    name, said = mode
    last = said[-1].usage

    assert await wrong_turns(said, demo) == []
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

        with pytest.raises(NotFound, match="nothing is kept of session parent"):
            await client.renew_session("parent")
        with pytest.raises(NotFound, match="nothing is kept of session nobody"):
            await client.fork_session("nobody", "child-2")
        with pytest.raises(InvalidRequest, match="name of a new session"):
            await client.fork_session("child", "child")
        with pytest.raises(InvalidRequest, match="lease_s must be between"):
            await client.renew_session("child", -1.0)
        status = await wait_until_idle(client)

    assert listed.session_id == "parent"
    assert listed.kept_tokens == FIRST_TOKENS + ANSWER_TOKENS - (FIRST_TOKENS + ANSWER_TOKENS) % 16
    assert renewed_s == 30.0
    assert child.end.usage.resident_tokens == listed.kept_tokens
    assert was_known
    assert is_idle(status), status


async def test_an_expired_lease_costs_nothing_but_its_place_in_line(demo: Path) -> None:
    config = Config(engine=ENGINE, decode=DecodeConfig(lease_s=0.001))

    async with local_cluster(demo, config) as cluster:
        said = await converse(cluster, 2)
        with pytest.raises(NotFound, match="has no lease here"):
            await cluster.client.renew_session("parent")

    # Nobody needed the memory, so the pages were still there.
    assert said[1].usage.resident_tokens > 0
