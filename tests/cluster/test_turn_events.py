"""The events of one turn's stream, and how a turn counts if its client disconnects at any point."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from router.router import Router
from segue.api.errors import DeadlineExceeded
from segue.api.turn import TokenDelta, TurnEnd, TurnEvent, TurnStarted
from segue.api.types import (
    SamplingParams,
    SessionId,
    StopConditions,
    TokenInput,
    TurnId,
    TurnRequest,
)
from tests.cluster.conftest import LocalCluster, local_cluster
from tests.cluster.waiting import is_idle, wait_until_idle

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(demo: Path) -> AsyncIterator[LocalCluster]:
    async with local_cluster(demo) as cluster:
        yield cluster


def request(name: str, *, max_tokens: int) -> TurnRequest:
    return TurnRequest(
        session_id=SessionId(""),
        turn_id=TurnId(name),
        input=TokenInput(tuple(range(300, 340))),
        sampling=SamplingParams(seed=1),
        stop=StopConditions(max_tokens=max_tokens, ignore_eos=True),
    )


async def messages_of(
    router: Router, name: str, *, max_tokens: int, deadline_s: float | None = None
) -> list[tuple[TurnEvent, ...]]:
    """All messages of a turn."""
    turn = router.generate(request(name, max_tokens=max_tokens), deadline_s=deadline_s)
    return [events async for events in turn]


@pytest.mark.parametrize("max_tokens", [1, 2, 8, 40])
async def test_the_events_are_start_tokens_and_end_in_this_order(
    cluster: LocalCluster, max_tokens: int
) -> None:
    messages = await messages_of(cluster.router, f"whole-{max_tokens}", max_tokens=max_tokens)

    events = [event for message in messages for event in message]
    assert isinstance(events[0], TurnStarted)
    assert isinstance(events[-1], TurnEnd)
    deltas = events[1:-1]
    assert all(isinstance(event, TokenDelta) for event in deltas)
    assert sum(len(d.token_ids) for d in deltas if isinstance(d, TokenDelta)) == max_tokens
    # Queued events share a message, and the end shares one with the last tokens.
    assert all(1 <= len(message) <= 3 for message in messages)
    assert [type(event) for event in messages[-1]][-2:] == [TokenDelta, TurnEnd]


async def test_a_client_that_disconnects_after_the_end_has_finished_its_turn(
    cluster: LocalCluster,
) -> None:
    before = (await cluster.client.status()).router
    turn = cluster.router.generate(request("leaves", max_tokens=3), deadline_s=None)
    async with contextlib.aclosing(turn):
        async for events in turn:
            if isinstance(events[-1], TurnEnd):
                break

    after = (await wait_until_idle(cluster.client)).router
    assert after.finished_turns == before.finished_turns + 1
    assert after.cancelled_turns == before.cancelled_turns


async def test_a_client_that_disconnects_before_the_end_has_cancelled_its_turn(
    cluster: LocalCluster,
) -> None:
    before = (await cluster.client.status()).router
    turn = cluster.router.generate(request("early", max_tokens=400), deadline_s=None)
    async with contextlib.aclosing(turn):
        await anext(turn)

    status = await wait_until_idle(cluster.client)
    assert is_idle(status), status
    assert status.router.finished_turns == before.finished_turns
    assert status.router.cancelled_turns == before.cancelled_turns + 1


async def test_a_turn_whose_deadline_has_passed_does_not_get_the_default_deadline(
    cluster: LocalCluster,
) -> None:
    with pytest.raises(DeadlineExceeded):
        await messages_of(cluster.router, "late", max_tokens=4, deadline_s=0.0)

    assert is_idle(await wait_until_idle(cluster.client))


async def test_a_client_whose_deadline_passes_is_no_failure(cluster: LocalCluster) -> None:
    router, metrics = cluster.router, cluster.router._metrics
    before = (await cluster.client.status()).router
    late = metrics.load.turns.labels("deadline")._value.get()

    with pytest.raises(DeadlineExceeded):
        await messages_of(router, "impatient", max_tokens=4000, deadline_s=0.2)
    # By the client's own clock, which is slightly ahead.
    turn = router.generate(request("hangs up", max_tokens=4000), deadline_s=0.3)
    started_at = asyncio.get_running_loop().time()
    # If the client's cancellation is late, the router's clock ends the turn, which counts the same.
    with contextlib.suppress(DeadlineExceeded):
        async with contextlib.aclosing(turn):
            async for _ in turn:
                if asyncio.get_running_loop().time() > started_at + 0.28:
                    break

    after = (await wait_until_idle(cluster.client)).router
    assert metrics.load.turns.labels("deadline")._value.get() == late + 2
    assert after.failed_turns == before.failed_turns
    assert after.cancelled_turns == before.cancelled_turns + 2


async def test_a_turn_that_fails_logs_the_reason(
    cluster: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="router.turn.meter"), pytest.raises(DeadlineExceeded):
        await messages_of(cluster.router, "logged", max_tokens=4, deadline_s=0.0)

    (record,) = [r for r in caplog.records if r.getMessage() == "turn failed"]
    assert record.levelname == "WARNING"
    assert "DeadlineExceeded: turn logged ran out of its time" in str(record.__dict__["error"])
