"""Sessions whose memory is offloaded to the host and loaded back: the tokens are those from
scratch.
"""

from __future__ import annotations

import asyncio
import random
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from decode_worker.config import DecodeConfig
from segue.api.errors import InvalidRequest, NotFound
from segue.api.prompt import Prompt
from segue.api.types import StopConditions, TokenInput
from segue.engine.config import EngineConfig
from segue.launch.config import Config
from tests.cluster.conftest import LocalCluster, local_cluster, num_evicted
from tests.cluster.direct_turn import DirectTurn
from tests.cluster.growing_session import TurnRecord, wrong_turns
from tests.cluster.moving_placement import pull_always
from tests.cluster.test_prefill_here import spec
from tests.cluster.waiting import is_idle, wait_until_idle

# 51 pages and 4 slots, and on decode, which drafts, 44 and 5: room for one session on the device,
# and for all of them on the host.
SHORT = EngineConfig(
    max_running=2,
    max_checkpoints=0,
    cache_bytes=2_540_000,
    host_cache_bytes=16 << 20,
    num_threads=1,
    page_tokens=16,
)


class Talk:
    """A session that only grows."""

    def __init__(self, name: str, first_tokens: int = 300) -> None:
        self.name = name
        self._source = random.Random(name)
        self.history = self._more(first_tokens)
        self.turns: list[TurnRecord] = []

    async def turn(self, cluster: LocalCluster) -> TurnRecord:
        answer = await cluster.client.generate(
            TokenInput(tuple(self.history)),
            session_id=self.name,
            stop=StopConditions(max_tokens=23, ignore_eos=True),
            timeout_s=60,
        )
        cluster.check_invariants()
        self.turns.append(TurnRecord(list(self.history), list(answer.token_ids), answer.end))
        self.history += [*answer.token_ids, *self._more(31)]
        return self.turns[-1]

    def _more(self, num_tokens: int) -> list[int]:
        return [self._source.randrange(5, 290) for _ in range(num_tokens)]


async def measured(cluster: LocalCluster, worker_id: str, sample: str, at_least: float) -> float:
    """A metric of the worker's endpoint, summed over all labels. Waits until it has this value, or
    for some of the heartbeats that update it.
    """
    status = await cluster.client.status()
    (worker,) = [w for w in status.workers if w.worker_id == worker_id]

    def scrape() -> str:
        with urllib.request.urlopen(f"http://{worker.metrics_address}/metrics") as reply:
            return str(reply.read(), "utf-8")

    deadline = asyncio.get_running_loop().time() + 5
    while True:
        families = text_string_to_metric_families(await asyncio.to_thread(scrape))
        value = sum(s.value for family in families for s in family.samples if s.name == sample)
        if value >= at_least or asyncio.get_running_loop().time() > deadline:
            return value
        await asyncio.sleep(0.02)


async def copied(cluster: LocalCluster) -> None:
    """Waits until the host has a copy of what ended turns left. What is evicted before that is
    lost, which costs time and no token.
    """
    async with asyncio.timeout(20):
        while any(w._turns or w._tier._tasks for w in (*cluster.prefill, *cluster.decode)):
            await asyncio.sleep(0.005)


def resident_tokens(cluster: LocalCluster, talk: Talk) -> int:
    """Tokens of its next prompt on the decode worker's device."""
    return cluster.decode[0]._memory.cache.match(Prompt(talk.history)).num_tokens


@pytest.fixture
async def cluster(demo: Path) -> AsyncIterator[LocalCluster]:
    async with local_cluster(demo, Config(engine=SHORT)) as cluster:
        yield cluster


async def test_sessions_that_do_not_fit_together_are_loaded_instead_of_computed(
    cluster: LocalCluster, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull_always(monkeypatch)
    talks = [Talk(name) for name in ("a", "b", "c")]
    for _ in range(5):
        for talk in talks:
            await talk.turn(cluster)
            await copied(cluster)
    status = await wait_until_idle(cluster.client)
    evicted = num_evicted(*cluster.prefill, *cluster.decode)
    num_loads = await measured(cluster, "decode-0", "segue_host_load_seconds_count", 3)
    loaded_tokens = await measured(cluster, "decode-0", "segue_host_loaded_tokens_total", 1001)

    assert evicted > 0
    assert loaded_tokens > 1000
    assert num_loads >= 3
    assert is_idle(status), status
    assert all(worker.load.host_pages.cached > 0 for worker in status.workers)
    for talk in talks:
        for turn in talk.turns[1:]:
            usage = turn.usage
            assert usage.resident_tokens >= usage.prompt_tokens - 31 - 2 * 16
            assert usage.cached_tokens + usage.pulled_tokens > 0.8 * usage.prompt_tokens
        assert await wrong_turns(talk.turns, demo) == []


async def test_a_prefill_worker_loads_a_prefix_instead_of_computing_it(demo: Path) -> None:
    config = Config(engine=SHORT, decode=DecodeConfig(residency=False))
    talks = [Talk(name) for name in ("a", "b", "c")]

    async with local_cluster(demo, config) as cluster:
        for _ in range(4):
            for talk in talks:
                await talk.turn(cluster)
                await copied(cluster)
        loaded_tokens = await measured(cluster, "prefill-0", "segue_host_loaded_tokens_total", 501)
        dropped = num_evicted(cluster.prefill[0]) - cluster.prefill[0]._memory.cache.num_moved_pages

    last = [talk.turns[-1].usage for talk in talks]
    assert loaded_tokens > 500
    assert dropped < num_evicted(cluster.prefill[0])
    assert all(usage.cached_tokens > 0.8 * usage.prompt_tokens for usage in last)
    for talk in talks:
        assert await wrong_turns(talk.turns, demo) == []


async def test_without_a_host_tier_the_same_sessions_are_computed_again(demo: Path) -> None:
    """The counterpart of the test above: nothing is loaded."""
    talks = [Talk(name) for name in ("a", "b", "c")]

    async with local_cluster(demo, Config(engine=replace(SHORT, host_cache_bytes=0))) as cluster:
        for _ in range(4):
            for talk in talks:
                await talk.turn(cluster)
        status = await cluster.client.status()

    last = [talk.turns[-1].usage for talk in talks]
    assert [usage.resident_tokens + usage.cached_tokens for usage in last] == [0, 0, 0]
    assert all(worker.load.host_pages.total == 0 for worker in status.workers)


async def test_a_paused_session_makes_room_and_is_back_before_its_turn(
    cluster: LocalCluster, demo: Path
) -> None:
    paused, other = Talk("paused"), Talk("other", first_tokens=500)
    await paused.turn(cluster)
    await copied(cluster)
    before = resident_tokens(cluster, paused)

    expires_in_s = await cluster.client.renew_session("paused", 30.0, pause_s=60.0)
    await other.turn(cluster)
    await other.turn(cluster)
    during = resident_tokens(cluster, paused)
    # Otherwise there is no room for its return: no lease is revoked for memory that is not needed
    # yet.
    await cluster.client.release_session("other")
    # The rest of the pause.
    await cluster.client.renew_session("paused", 30.0, pause_s=1.0)
    still_away = resident_tokens(cluster, paused)
    async with asyncio.timeout(10):
        while resident_tokens(cluster, paused) < before:
            await asyncio.sleep(0.01)
    still_leased_s = await cluster.client.renew_session("paused", 10.0)
    turn = await paused.turn(cluster)
    status = await wait_until_idle(cluster.client)

    assert before >= 300
    assert expires_in_s == 90.0
    assert still_away == during < before, "the other session took its memory"
    assert still_leased_s == 10.0
    assert turn.usage.resident_tokens >= before
    assert is_idle(status), status
    assert await wrong_turns([*paused.turns, *other.turns], demo) == []


async def test_an_early_turn_does_not_wait_for_the_end_of_the_pause(
    cluster: LocalCluster, demo: Path
) -> None:
    paused, other = Talk("paused"), Talk("other", first_tokens=500)
    await paused.turn(cluster)
    await copied(cluster)
    before = resident_tokens(cluster, paused)
    await cluster.client.renew_session("paused", pause_s=600.0)
    await other.turn(cluster)
    await other.turn(cluster)

    turn = await asyncio.wait_for(paused.turn(cluster), timeout=30)

    assert turn.usage.resident_tokens >= before
    assert await wrong_turns(paused.turns, demo) == []


async def test_a_paused_session_can_be_forked_and_released(cluster: LocalCluster) -> None:
    paused, other = Talk("paused"), Talk("other", first_tokens=500)
    await paused.turn(cluster)
    await cluster.client.renew_session("paused", pause_s=600.0)
    await other.turn(cluster)
    await cluster.client.fork_session("paused", "child")

    assert await cluster.client.release_session("paused")

    with pytest.raises(NotFound):
        await cluster.client.renew_session("paused")
    assert await cluster.client.renew_session("child", 7.0) == 7.0


async def test_a_turn_id_that_is_used_twice_while_loading_runs_once(
    cluster: LocalCluster,
) -> None:
    talk = Talk("a")
    await talk.turn(cluster)
    await copied(cluster)
    decode = cluster.decode[0]
    decode._memory.cache.make_room(decode._memory.pages.total, 0)
    turn = spec("twice", talk.history)

    direct = DirectTurn(decode, turn)
    outcomes = await asyncio.gather(*(direct.start() for _ in range(2)), return_exceptions=True)
    direct.stop()

    assert [type(outcome) for outcome in outcomes] == [type(None), InvalidRequest]
    assert is_idle(await wait_until_idle(cluster.client))


async def test_turns_cancelled_while_loading_leave_nothing(
    cluster: LocalCluster,
) -> None:
    talks = [Talk(name) for name in ("a", "b", "c")]
    for _ in range(2):
        for talk in talks:
            await talk.turn(cluster)
    source = random.Random(5)

    for _ in range(12):
        turns = [asyncio.ensure_future(talk.turn(cluster)) for talk in talks]
        await asyncio.sleep(source.uniform(0.0, 0.03))
        for turn in turns:
            turn.cancel()
        await asyncio.gather(*turns, return_exceptions=True)
        cluster.check_invariants()

    assert is_idle(await wait_until_idle(cluster.client))
