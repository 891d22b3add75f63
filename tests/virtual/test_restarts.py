"""A router that starts again finds out what its workers hold before it limits an answer."""

from __future__ import annotations

import pytest

from segue.api.turn import TurnEnd
from segue.api.types import SessionId, StopConditions, TokenInput, TurnId, TurnRequest
from tests.virtual.clock import run
from tests.virtual.cluster import running_cluster, until
from tests.workers.fake_runner import FakeRunner


@pytest.mark.parametrize("max_tokens", [None, 400])
def test_an_answer_is_limited_by_the_memory_of_workers_that_have_yet_to_join(
    max_tokens: int | None,
) -> None:
    async def restarted() -> TurnEnd:
        async with running_cluster(0, num_prefill=1, num_decode=1) as cluster:
            cluster.restart_router(away_s=1.0)
            await until(lambda: not cluster.process.is_dead, 60.0)
            assert not any(cluster.router.placing.pools.now), "no worker has joined yet"
            request = TurnRequest(
                turn_id=TurnId("t"),
                session_id=SessionId("s"),
                input=TokenInput((1, 2, 3)),
                stop=StopConditions(max_tokens=max_tokens),
            )
            answering = cluster.router.generate(request, deadline_s=60.0)
            ends = [event async for events in answering for event in events]
            end = ends[-1]
            assert isinstance(end, TurnEnd)
            assert end.usage.completion_tokens + 3 <= cluster.router.placing.pools.now.decode
            return end

    end = run(restarted())

    assert end.finish_reason == "length"
    assert end.usage.completion_tokens < FakeRunner.config.max_position_embeddings - 3
