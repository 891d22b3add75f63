"""Workers that die, overflow or do not fit: turns move or fail with a reason, and nothing leaks."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from segue.api.errors import InvalidRequest, LayoutMismatch, Overloaded, Unavailable
from segue.api.turn import TokenDelta, TurnEnd, TurnStarted
from segue.api.types import SessionId, StopConditions, TokenInput
from segue.engine.config import EngineConfig
from segue.launch.cluster import Cluster
from segue.launch.config import Config
from segue.sdk.client import Client
from tests.cluster.conftest import ENGINE, local_cluster
from tests.cluster.oracle import Oracle
from tests.cluster.waiting import is_idle, wait_until_idle

LONG_PROMPT = tuple(5 + index * 7 % 900 for index in range(6000))
LONG_ANSWER = StopConditions(max_tokens=700, ignore_eos=True)


async def pid_of(client: Client, worker_id: str) -> int:
    (pid,) = [w.pid for w in (await client.status()).workers if w.worker_id == worker_id]
    return pid


async def wait_until_whole(client: Client) -> None:
    async with asyncio.timeout(60):
        while {w.health.value for w in (await client.status()).workers} != {"ready"}:
            await asyncio.sleep(0.1)


async def test_a_turn_whose_prefill_worker_dies_is_computed_by_another(
    ray_cluster: Cluster, demo: Path
) -> None:
    async with Client(ray_cluster.address) as client:
        await wait_until_whole(client)
        turn = client.stream(
            TokenInput(LONG_PROMPT), stop=StopConditions(max_tokens=5, ignore_eos=True)
        )
        first = await anext(turn)
        assert isinstance(first, TurnStarted)

        os.kill(await pid_of(client, first.prefill_worker), signal.SIGKILL)

        events = [event async for event in turn]
        await wait_until_whole(client)
        status = await wait_until_idle(client)

    tokens = [t for event in events if isinstance(event, TokenDelta) for t in event.token_ids]
    again = [event for event in events if isinstance(event, TurnStarted)]
    assert [event.prefill_worker != first.prefill_worker for event in again] == [True]
    assert tokens == Oracle(demo).greedy(LONG_PROMPT, 5)
    assert is_idle(status), status


@pytest.mark.parametrize(
    # tests/faults kills one in the short form too.
    "number",
    [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGSTOP],
)
async def test_an_answer_whose_decode_worker_dies_or_hangs_goes_on_elsewhere(
    ray_cluster: Cluster, number: int
) -> None:
    prompt = TokenInput((5, 6, 7))
    async with Client(ray_cluster.address) as client:
        await wait_until_whole(client)
        whole = await client.generate(prompt, stop=LONG_ANSWER)
        turn = client.stream(prompt, stop=LONG_ANSWER)
        started = await anext(turn)
        assert isinstance(started, TurnStarted)
        events = [await anext(turn)]

        pid = await pid_of(client, started.decode_worker)
        os.kill(pid, number)
        stopped_at = time.monotonic()
        silence_s = 0.0
        async for event in turn:
            silence_s = max(silence_s, time.monotonic() - stopped_at)
            stopped_at = time.monotonic()
            events.append(event)
        if number == signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
        await wait_until_whole(client)
        status = await wait_until_idle(client)

    end = events[-1]
    assert isinstance(end, TurnEnd)
    assert end.usage.resumed == 1
    assert end.decode_worker != started.decode_worker
    tokens = [t for event in events if isinstance(event, TokenDelta) for t in event.token_ids]
    assert tuple(tokens) == whole.token_ids
    assert silence_s < 10.0
    assert is_idle(status), status


# test_routers.py kills one in a process of its own in the default suite.
@pytest.mark.slow
async def test_the_router_restarts_at_its_address_and_the_workers_rejoin(
    ray_cluster: Cluster,
) -> None:
    import ray

    router_pid = ray.get(ray_cluster.router.life.remote())[0]

    os.kill(router_pid, signal.SIGKILL)

    async with Client(ray_cluster.address) as client, asyncio.timeout(60):
        while True:
            try:
                if len((await client.status()).workers) == 4:
                    break
            except Unavailable:
                pass
            await asyncio.sleep(0.1)
        await wait_until_whole(client)
        answer = await client.generate(TokenInput((5, 6, 7)))

    assert answer.token_ids


async def test_a_session_returns_to_its_own_workers(ray_cluster: Cluster) -> None:
    async with Client(ray_cluster.address) as client:
        await wait_until_whole(client)
        ends = [
            (
                await client.generate(
                    TokenInput(tuple(range(5 + start, 805 + start))),
                    session_id=SessionId(f"session-{start}"),
                    stop=StopConditions(max_tokens=3, ignore_eos=True),
                )
            ).end
            for start in (0, 30, 60, 0, 30, 60)
        ]

    # If decode computes the prompt's end itself, no prefill worker is named.
    assert [end.decode_worker for end in ends[:3]] == [end.decode_worker for end in ends[3:]]
    assert all(end.usage.resident_tokens > 700 for end in ends[3:])


async def test_workers_with_different_memory_layouts_refuse_each_other_by_name(
    demo: Path,
) -> None:
    other = replace(ENGINE, page_tokens=32)

    async with local_cluster(demo, decode_engine=other) as cluster:
        with pytest.raises(
            LayoutMismatch, match=r"prefill-0.*16.*decode-0.*32|decode-0.*prefill-0"
        ):
            await cluster.client.generate(TokenInput((5, 6, 7)), timeout_s=20)
        status = await wait_until_idle(cluster.client)

    assert is_idle(status), status


async def test_turns_wait_for_memory_and_all_are_served(demo: Path) -> None:
    """Ten concurrent turns, and memory for one turn at a time."""
    engine = EngineConfig(max_running=1, cache_bytes=8 << 20, num_threads=1)

    async with local_cluster(demo, Config(engine=engine)) as cluster:
        answers = await asyncio.gather(
            *(
                cluster.client.generate(
                    TokenInput((5, 6, 7 + index)),
                    stop=StopConditions(max_tokens=20, ignore_eos=True),
                )
                for index in range(10)
            )
        )
        status = await wait_until_idle(cluster.client)

    assert {len(answer.token_ids) for answer in answers} == {20}
    assert is_idle(status), status


async def test_a_turn_that_can_never_fit_is_refused_with_the_numbers(demo: Path) -> None:
    engine = EngineConfig(max_running=1, cache_bytes=2 << 20, num_threads=1)

    async with local_cluster(demo, Config(engine=engine)) as cluster:
        with pytest.raises(
            InvalidRequest, match=r"too long: 6000 tokens > \d+ maximum.* holds \d+ tokens"
        ):
            await cluster.client.generate(
                TokenInput(LONG_PROMPT), stop=StopConditions(max_tokens=500), timeout_s=20
            )


async def test_without_a_queue_a_turn_beyond_the_limit_is_refused_with_a_retry_hint(
    demo: Path,
) -> None:
    config = Config(engine=ENGINE)
    config = replace(config, router=replace(config.router, max_turns=1, max_queued=0))

    async with local_cluster(demo, config) as cluster:
        running = cluster.client.stream(TokenInput((5, 6, 7)), stop=LONG_ANSWER)
        await anext(running)

        with pytest.raises(Overloaded, match="1 turns are in flight") as refused:
            await cluster.client.generate(TokenInput((5, 6, 7)))
        await running.aclose()
        status = await wait_until_idle(cluster.client)

    assert refused.value.retry_after_s > 0
    assert is_idle(status), status
