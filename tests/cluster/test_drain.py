"""Workers that are drained under load: no turn fails, and sessions go on with what is new."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from segue.api.cluster.drain import LeftReason
from segue.api.cluster.status import WorkerHealth
from segue.api.types import SamplingParams, SessionId
from segue.launch.config import Config
from tests.cluster.conftest import ENGINE
from tests.cluster.rolling import RollingCluster, Talk, num_computed, rolling_cluster
from tests.cluster.waiting import is_idle, wait_until_idle

SAMPLED = SamplingParams(temperature=1.2, top_k=30, repetition_penalty=1.1, seed=5)
PAGE = ENGINE.page_tokens

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(demo: Path) -> AsyncIterator[RollingCluster]:
    async with rolling_cluster(demo, Config(engine=ENGINE), prefill=1, decode=2) as cluster:
        yield cluster


def home(cluster: RollingCluster, talk: Talk) -> str:
    return str(cluster.router.table.of(SessionId(talk.name)).info().decode_worker)


async def test_a_drained_workers_sessions_go_on_elsewhere_with_what_is_new(
    cluster: RollingCluster,
) -> None:
    talk = Talk("moved", seed=1)
    undisturbed = Talk("undisturbed", seed=1, salt="apart")
    for _ in range(2):
        await talk.turn(cluster.client)
        await undisturbed.turn(cluster.client)
    was_at = home(cluster, talk)
    lives = cluster.num_lives[was_at]

    report = await cluster.client.drain_worker(was_at)
    assert report.moved_sessions >= 1
    assert report.moved_bytes > 0
    assert report.left == {}
    assert home(cluster, talk) != was_at

    moved, control = await talk.turn(cluster.client), await undisturbed.turn(cluster.client)
    assert talk.answers == undisturbed.answers
    assert num_computed(moved) == num_computed(control)
    assert moved.usage.resident_tokens == control.usage.resident_tokens
    # What is new, and the end of the last answer that does not fill a page.
    assert num_computed(moved) <= talk.num_new + PAGE
    await cluster.until_back(was_at, lives)
    assert is_idle(await wait_until_idle(cluster.client))


async def test_a_turn_that_outlasts_the_drain_goes_on_elsewhere(cluster: RollingCluster) -> None:
    talk = Talk("long", seed=2, sampling=SAMPLED)
    undisturbed = Talk("long-undisturbed", seed=2, sampling=SAMPLED, salt="apart")
    await undisturbed.turn(cluster.client, max_tokens=150)
    answering = asyncio.ensure_future(talk.turn(cluster.client, max_tokens=150))
    await talk.has_tokens(4)
    was_at = home(cluster, talk)
    lives = cluster.num_lives[was_at]

    report = await cluster.client.drain_worker(was_at, timeout_s=0.05)
    end = await answering

    assert report.moved_turns == 1
    assert end.usage.resumed == 1
    assert talk.answers == undisturbed.answers
    await cluster.until_back(was_at, lives)
    assert is_idle(await wait_until_idle(cluster.client))


async def test_a_turn_that_ends_in_time_ends_there(cluster: RollingCluster) -> None:
    talk = Talk("short", seed=3)
    answering = asyncio.ensure_future(talk.turn(cluster.client, max_tokens=120))
    await talk.has_tokens(1)
    was_at = home(cluster, talk)
    lives = cluster.num_lives[was_at]
    draining = asyncio.ensure_future(cluster.client.drain_worker(was_at))
    async with asyncio.timeout(20):
        while cluster.health(was_at) is not WorkerHealth.DRAINING:
            await asyncio.sleep(0.002)
    report, end = await draining, await answering

    assert (report.ended_turns, report.moved_turns) == (1, 0)
    assert end.usage.resumed == 0
    # Its session moved after its turn.
    assert home(cluster, talk) != was_at
    assert num_computed(await talk.turn(cluster.client)) <= talk.num_new + PAGE
    await cluster.until_back(was_at, lives)


async def test_a_drain_moves_nothing_if_it_is_not_to(cluster: RollingCluster) -> None:
    talk = Talk("stays", seed=4)
    await talk.turn(cluster.client)
    was_at = home(cluster, talk)
    lives = cluster.num_lives[was_at]
    report = await cluster.client.drain_worker(was_at, move_sessions=False)

    assert report.moved_sessions == 0
    assert report.left[LeftReason.NOT_ASKED] >= 1
    await talk.turn(cluster.client)
    await cluster.until_back(was_at, lives)


async def test_a_prefill_worker_has_no_sessions_to_move(cluster: RollingCluster) -> None:
    lives = cluster.num_lives["prefill-0"]
    report = await cluster.client.drain_worker("prefill-0")

    assert (report.moved_sessions, report.left) == (0, {})
    await cluster.until_back("prefill-0", lives)
    await Talk("after", seed=6).turn(cluster.client)


@pytest.mark.slow
async def test_a_rolling_restart_under_load_loses_nothing(demo: Path) -> None:
    """Each worker is drained in turn while eight sessions have their turns."""
    sampled = [replace(SAMPLED, seed=number) for number in range(4)]
    kinds = [SamplingParams()] * 4 + sampled

    def talks(prefix: str, salt: str) -> list[Talk]:
        return [
            Talk(f"{prefix}-{number}", seed=100 + number, sampling=kind, salt=salt, max_tokens=64)
            for number, kind in enumerate(kinds)
        ]

    async with rolling_cluster(demo, Config(engine=ENGINE), prefill=2, decode=2) as cluster:
        disturbed, undisturbed = talks("d", ""), talks("u", "apart")
        is_over = asyncio.Event()

        async def converse(talk: Talk) -> None:
            while not is_over.is_set() or len(talk.answers) < 3:
                await talk.turn(cluster.client)
                await asyncio.sleep(0.05)

        conversing = [asyncio.ensure_future(converse(talk)) for talk in disturbed]
        reports = {}
        for name in ("decode-0", "prefill-0", "decode-1", "prefill-1"):
            await asyncio.sleep(0.5)
            lives = cluster.num_lives[name]
            reports[name] = await cluster.client.drain_worker(name, timeout_s=5.0)
            await cluster.until_back(name, lives)
        is_over.set()
        await asyncio.gather(*conversing)
        # With all sessions idle, nothing is lost: their next turns compute what is new.
        lives = cluster.num_lives["decode-0"]
        idle = await cluster.client.drain_worker("decode-0")
        assert (idle.moved_turns, idle.left) == (0, {})
        for talk in disturbed:
            assert num_computed(await talk.turn(cluster.client)) <= talk.num_new + PAGE
        await cluster.until_back("decode-0", lives)
        for talk, control in zip(disturbed, undisturbed, strict=True):
            for _ in talk.answers:
                await control.turn(cluster.client)
            assert talk.answers == control.answers, talk.name

        assert (await cluster.client.status()).router.failed_turns == 0
        assert sum(report.moved_sessions for report in reports.values()) >= 4
        assert is_idle(await wait_until_idle(cluster.client))
        for name in cluster.workers:
            cluster.check(name)


@pytest.mark.slow
async def test_a_session_that_is_only_on_the_host_moves_too(demo: Path) -> None:
    engine = replace(ENGINE, host_cache_bytes=32 << 20)
    async with rolling_cluster(demo, Config(engine=engine), prefill=1, decode=2) as cluster:
        talk = Talk("offloaded", seed=8)
        await talk.turn(cluster.client)
        source = cluster.workers[home(cluster, talk)]
        cache = source._memory.cache
        async with asyncio.timeout(20):
            while source._tier._tasks:
                await asyncio.sleep(0.01)
        assert cache.make_room(cache.num_obtainable_pages, cache.num_obtainable_slots)
        assert cache.leases.get(SessionId(talk.name)) is None
        # Its prompt is computed from what decode has, not from prefill's cache.
        prefill = cluster.workers["prefill-0"]._memory.cache
        assert prefill.make_room(prefill.num_obtainable_pages, prefill.num_obtainable_slots)

        report = await cluster.client.drain_worker(source.name)
        assert (report.moved_sessions, report.left) == (1, {})
        assert num_computed(await talk.turn(cluster.client)) <= talk.num_new + PAGE
