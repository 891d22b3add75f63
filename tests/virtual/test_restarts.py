"""What a turn sees of a router, or of an engine, that starts again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from segue.api.errors import DeadlineExceeded
from segue.api.turn import TurnEnd
from segue.api.types import (
    SessionId,
    StopConditions,
    TokenInput,
    TurnId,
    TurnRequest,
    WorkerId,
)
from tests.virtual.clock import run
from tests.virtual.cluster import Cluster, running_cluster, until
from tests.workers.fake_runner import FakeRunner


def request(max_tokens: int | None) -> TurnRequest:
    return TurnRequest(
        turn_id=TurnId("t"),
        session_id=SessionId("s"),
        input=TokenInput((1, 2, 3)),
        stop=StopConditions(max_tokens=max_tokens),
    )


@contextlib.asynccontextmanager
async def just_restarted() -> AsyncIterator[Cluster]:
    async with running_cluster(0, num_prefill=1, num_decode=1) as cluster:
        cluster.restart_router(away_s=1.0)
        await until(lambda: not cluster.process.is_dead, 60.0)
        assert not any(cluster.router.placing.pools.now), "no worker has joined yet"
        yield cluster


@pytest.mark.parametrize("max_tokens", [None, 400])
def test_an_answer_is_limited_by_the_memory_of_workers_that_have_yet_to_join(
    max_tokens: int | None,
) -> None:
    async def answered() -> TurnEnd:
        async with just_restarted() as cluster:
            answering = cluster.router.generate(request(max_tokens), deadline_s=60.0)
            end = [event async for events in answering for event in events][-1]
            assert isinstance(end, TurnEnd)
            assert end.usage.completion_tokens + 3 <= cluster.router.placing.pools.now.decode
            return end

    end = run(answered())

    assert end.finish_reason == "length"
    assert end.usage.completion_tokens < FakeRunner.config.max_position_embeddings - 3


def test_waiting_for_workers_ends_with_the_deadline_or_when_the_turn_is_cancelled() -> None:
    async def waited() -> tuple[float, float]:
        async with just_restarted() as cluster:
            now = asyncio.get_running_loop().time
            began_at = now()
            with pytest.raises(DeadlineExceeded):
                await anext(cluster.router.generate(request(4), deadline_s=0.05))
            until_late_s, began_at = now() - began_at, now()
            answering = asyncio.ensure_future(
                anext(cluster.router.generate(request(4), deadline_s=60.0))
            )
            await asyncio.sleep(0.01)
            assert cluster.router.cancel(TurnId("t"))
            (end,) = await answering
            assert isinstance(end, TurnEnd)
            assert end.finish_reason == "cancelled"
            return until_late_s, now() - began_at

    until_late_s, until_cancelled_s = run(waited())

    assert until_late_s == pytest.approx(0.05, abs=0.01)
    assert until_cancelled_s < 0.2


def test_a_turn_goes_on_after_its_engine_has_failed_twice_and_its_worker_started_again() -> None:
    async def answered() -> tuple[TurnEnd, list[str]]:
        async with running_cluster(0, num_prefill=1, num_decode=1) as cluster:
            broken = cluster.lives[WorkerId("prefill-0")]
            assert broken is not None
            broken.layers.num_failing = 2
            answering = cluster.router.generate(request(4), deadline_s=60.0)
            end = [event async for events in answering for event in events][-1]
            assert isinstance(end, TurnEnd)
            assert cluster.lives[WorkerId("prefill-0")] is not broken
            return end, await cluster.rest()

    end, wrongs = run(answered())

    assert end.usage.completion_tokens == 4
    assert wrongs == []
