"""Placement in a whole cluster: explained, measured, sticky if that pays, and without leaks."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest

from router.config import RouterConfig
from router.placement.policy import place
from router.placement.side import Rules, TurnSize
from segue.api.errors import NotFound, Unavailable
from segue.api.turn import TokenDelta
from segue.api.types import ChatInput, Message, StopConditions, TokenInput, WorkerId
from segue.launch.config import Config
from segue.sdk.client import Answer
from segue.worker.drain import Deadline
from tests.cluster.conftest import ENGINE, LocalCluster, local_cluster
from tests.cluster.moving_placement import place_without_pulls
from tests.cluster.oracle import Oracle
from tests.cluster.waiting import wait_until_idle

LONG = [random.Random(5).randrange(5, 290) for _ in range(800)]
# Room for the prompt of 18,000 tokens below.
ROOMY = replace(ENGINE, cache_bytes=64 << 20)
ONLY_PREFILL = Config(engine=ROOMY, router=RouterConfig(local_prefill_max_tokens=0))


async def say(cluster: LocalCluster, prompt: list[int], session_id: str = "agent") -> Answer:
    return await cluster.client.generate(
        TokenInput(tuple(prompt)),
        session_id=session_id,
        stop=StopConditions(max_tokens=20, ignore_eos=True),
        timeout_s=60,
    )


def workers_of(answer: Answer) -> tuple[str, str]:
    return answer.end.prefill_worker, answer.end.decode_worker


def seats(cluster: LocalCluster) -> int:
    """The turns that the router counts as its own on workers."""
    nodes = cluster.router.placing.cluster.nodes.values()
    return sum(node.own_turns + node.own_prefills + node.own_tokens for node in nodes)


def num_estimates(cluster: LocalCluster) -> float | None:
    registry = cluster.router.placing.metrics.registry
    return registry.get_sample_value("segue_placement_estimate_error_count")


def by_mode(cluster: LocalCluster, mode: str) -> float:
    registry = cluster.router.placing.metrics.registry
    return registry.get_sample_value("segue_placements_total", {"mode": mode}) or 0.0


async def test_decisions_are_explained_and_every_estimate_is_compared(demo: Path) -> None:
    async with local_cluster(demo, prefill=2, decode=2) as cluster:
        for number in range(3):
            await say(cluster, LONG[: 100 + number])
        explanation = await cluster.client.explain("agent")
        await asyncio.gather(*(say(cluster, LONG[:number], "") for number in range(1, 4)))
        with pytest.raises(NotFound, match="no decision is remembered for this session"):
            await cluster.client.explain("nobody")
        estimates = num_estimates(cluster)

    assert estimates == 6
    assert explanation.prompt_tokens == 102
    assert explanation.actual_s is not None
    assert explanation.actual_s > 0
    assert sum(candidate.chosen for candidate in explanation.candidates) == 1
    assert explanation.chosen.total_s == explanation.estimated_s
    assert {speed.worker_id for speed in explanation.speeds} == {
        "prefill-0",
        "prefill-1",
        "decode-0",
        "decode-1",
    }
    for one in explanation.candidates:
        parts = (
            one.queue_s,
            one.pull_s,
            one.compute_s,
            one.move_s,
            one.hidden_s,
            one.interference_s,
            one.overhead_s,
        )
        assert sum(parts) == pytest.approx(one.total_s)


async def test_a_session_returns_to_its_workers_and_leaves_them_if_they_are_overloaded(
    demo: Path,
) -> None:
    async with local_cluster(demo, ONLY_PREFILL, prefill=2, decode=2) as cluster:
        first = workers_of(await say(cluster, LONG[:700]))
        await say(cluster, LONG[:300], "another")
        second = workers_of(await say(cluster, LONG[:720]))

        # Another turn's long prompt is queued at the worker that computed the session.
        board = cluster.router.placing.cluster
        names = [WorkerId(name) for name in ("prefill-0", "prefill-1", "decode-0", "decode-1")]
        prefill, decode = (name for name in names if name not in first)
        # It fits every worker: if it fitted none, the workers to avoid would not count.
        decision = place(
            TurnSize(18_000, 1), board, {}, Rules(), avoid=[prefill, WorkerId(first[1])]
        )
        seat = board.take(decision)
        third = workers_of(await say(cluster, LONG[:740]))
        board.leave(seat)

    assert (decision.chosen.prefill, decision.chosen.decode) == (first[0], decode)
    assert second == first
    assert third == (prefill, first[1])


async def test_a_new_session_is_prefilled_where_its_system_message_was(demo: Path) -> None:
    rules = Message(role="system", content="You answer in one short sentence. " * 40)

    async def ask(cluster: LocalCluster, question: str, session_id: str) -> Answer:
        return await cluster.client.generate(
            ChatInput(messages=(rules, Message(role="user", content=question))),
            session_id=session_id,
            stop=StopConditions(max_tokens=5, ignore_eos=True),
            timeout_s=60,
        )

    async with local_cluster(demo, ONLY_PREFILL, prefill=2, decode=2) as cluster:
        # Another turn keeps the first workers busy; once it has ended, they would be chosen.
        board = cluster.router.placing.cluster
        busy = board.take(
            place(
                TurnSize(20_000, 1),
                board,
                {},
                Rules(),
                avoid=[WorkerId("prefill-1"), WorkerId("decode-1")],
            )
        )
        first = await ask(cluster, "What is the sky?", "one")
        board.leave(busy)
        second = await ask(cluster, "And the sea?", "two")
        # Both decode workers have the system message by now.
        third = await ask(cluster, "And the moon?", "three")

    assert workers_of(first) == ("prefill-1", "decode-1")
    # Computed where the system message was, and placed on the other decode worker.
    assert workers_of(second) == ("prefill-1", "decode-0")
    for usage in (second.end.usage, third.end.usage):
        assert usage.cached_tokens > 0.8 * usage.prompt_tokens
    # Its pages that decode already has are not shipped again.
    assert third.end.usage.shipped_bytes < 0.7 * first.end.usage.shipped_bytes


async def test_decode_computes_a_short_suffix_only_while_it_holds_the_prefix(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.placement.placing.place", place_without_pulls)
    other = [random.Random(6).randrange(5, 290) for _ in range(300)]

    async with local_cluster(demo) as cluster:
        first = await say(cluster, LONG[:200])
        history = [*LONG[:200], *first.token_ids]
        second = await say(cluster, [*history, 7, 8, 9])
        # As long as decode's prefix, but different: the router compares tokens.
        third = await say(cluster, other)
        explanation = await cluster.client.explain("agent")
        num_local = by_mode(cluster, "local")
        history = [*other, *third.token_ids]
        # The router believes what the last turn left: decode refuses, and prefill computes.
        memory = cluster.decode[0]._memory
        memory.cache.make_room(memory.pages.total, 0)
        fourth = await say(cluster, [*history, 7, 8, 9])
        await wait_until_idle(cluster.client)
        left = seats(cluster)

    assert workers_of(second) == ("decode-0", "decode-0")
    assert second.end.usage.shipped_bytes == 0
    assert workers_of(third) == ("prefill-0", "decode-0")
    assert explanation.chosen.mode == "compute"
    assert third.end.usage.cached_tokens == third.end.usage.pulled_tokens == 0
    assert num_local == 1
    assert workers_of(fourth) == ("prefill-0", "decode-0")
    assert by_mode(cluster, "local") == 2
    assert left == 0
    oracle = Oracle(demo)
    assert oracle.would_say([*LONG[:200], *first.token_ids, 7, 8, 9], list(second.token_ids))
    assert oracle.would_say(other, list(third.token_ids))
    assert oracle.would_say([*history, 7, 8, 9], list(fourth.token_ids))


async def test_turns_that_end_early_leave_their_seats(demo: Path) -> None:
    unending = StopConditions(max_tokens=400, ignore_eos=True)
    soon = Deadline(5.0, asyncio.get_running_loop().time)

    async with local_cluster(demo, ONLY_PREFILL, prefill=2) as cluster:
        client = cluster.client
        dropped = client.stream(TokenInput(tuple(LONG)), stop=unending)
        await anext(dropped)
        await dropped.aclose()
        cancelled = client.stream(TokenInput(tuple(LONG)), stop=unending, turn_id="t")
        while not isinstance(await anext(cancelled), TokenDelta):
            pass
        assert seats(cluster) > 0
        assert await client.cancel("t")
        _ = [event async for event in cancelled]

        # It accepts no more turns, and the router does not know that yet.
        await cluster.prefill[0].drain(soon, None)
        retried = [await say(cluster, LONG[:100]) for _ in range(2)]
        await cluster.prefill[1].drain(soon, None)
        with pytest.raises(Unavailable, match="draining"):
            await say(cluster, LONG[:100])
        await wait_until_idle(client)
        left = seats(cluster)

    assert {workers_of(answer)[0] for answer in retried} == {"prefill-1"}
    assert left == 0
