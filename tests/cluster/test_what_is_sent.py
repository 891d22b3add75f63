"""What a client sends of a conversation: only new messages, unless the router has lost the rest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from router.config import RouterConfig
from segue.api.errors import Unavailable, UnknownHistory
from segue.api.turn import TokenDelta
from segue.api.types import ChatInput, Continuation, Message
from segue.launch.cluster import Cluster
from segue.launch.config import Config
from segue.sdk.client import Client
from tests.cluster.conftest import ENGINE, local_cluster
from tests.cluster.conversation import DEMO_TOOLS, SCRIPT, STOP, Wire, say, wrong_turns
from tests.cluster.waiting import wait_until_idle, wait_until_ready


async def test_a_request_does_not_grow_with_the_history(demo: Path) -> None:
    async with local_cluster(demo) as cluster:
        wire = Wire(cluster.client)
        session = cluster.client.session(system="Remember. " * 50, tools=DEMO_TOOLS)
        turns = [await say(session, "What is the router?") for _ in range(12)]

    sizes = [request.ByteSize() for request in wire.requests]
    prompts = [turn.end.usage.prompt_tokens for turn in turns]
    assert wire.num_messages == [2] * 12
    assert max(sizes[1:]) - min(sizes[1:]) <= 4
    assert max(sizes[1:]) < 300 < sizes[0]
    assert prompts[-1] - prompts[0] > 250


async def test_messages_that_the_router_lost_are_sent_again_in_the_same_call(demo: Path) -> None:
    async with local_cluster(demo) as cluster:
        wire = Wire(cluster.client)
        session = cluster.client.session("s", tools=DEMO_TOOLS)
        turns = [await say(session, new) for new in SCRIPT[:2]]
        await cluster.client.release_session("s")
        turns += [await say(session, new) for new in SCRIPT[2:4]]

        edited = wire.num_messages
        session.messages[0] = Message(role="user", content="My city is Rome.")
        turns.append(await say(session, SCRIPT[4]))
        del session.messages[4:]
        turns.append(await say(session, "What is my city?"))

    # Released: a refusal, then everything. Edited: the same. Cut: a prefix of the kept messages.
    assert edited == [1, 2, 2, 5, 2]
    assert wire.num_messages == [*edited, 2, 9, 1]
    assert await wrong_turns(turns, demo) == []


async def test_a_restarted_router_is_sent_everything_once(ray_cluster: Cluster, demo: Path) -> None:
    import ray

    async with Client(ray_cluster.address) as client:
        await wait_until_ready(client, 4)
        wire = Wire(client)
        session = client.session(tools=DEMO_TOOLS)
        turns = [await say(session, new) for new in SCRIPT[:3]]

        os.kill(ray.get(ray_cluster.router.life.remote())[0], signal.SIGKILL)
        await wait_until_back(client)
        turns += [await say(session, new) for new in SCRIPT[3:5]]

    assert wire.num_messages == [1, 2, 2, 2, 7, 2]
    assert await wrong_turns(turns, demo) == []


async def wait_until_back(client: Client) -> None:
    """Waits until a killed router is gone, and then until it has its workers again."""
    async with asyncio.timeout(60):
        with contextlib.suppress(Unavailable):
            while True:
                await client.status()
        while True:
            with contextlib.suppress(Unavailable):
                return await wait_until_ready(client, 4)
            await asyncio.sleep(0.1)


async def test_an_interrupted_turn_leaves_client_and_router_unchanged(demo: Path) -> None:
    async with local_cluster(demo) as cluster:
        wire = Wire(cluster.client)
        session = cluster.client.session("s", tools=DEMO_TOOLS)
        await say(session, "My city is Lisbon.")
        before = list(session.messages)

        turn = session.turn("Count from 1 to 15.", stop=STOP)
        async for event in turn:
            if isinstance(event, TokenDelta):
                break
        await turn.aclose()
        unchanged = session.messages == before
        await wait_until_idle(cluster.client)
        last = await say(session, "What is my city?")

    assert unchanged
    assert wire.num_messages == [1, 2, 2]
    assert await wrong_turns([last], demo) == []


async def test_a_router_that_keeps_no_histories_is_sent_everything(demo: Path) -> None:
    config = Config(engine=ENGINE, router=RouterConfig(history_bytes=0))

    async with local_cluster(demo, config) as cluster:
        wire = Wire(cluster.client)
        session = cluster.client.session("s", tools=DEMO_TOOLS)
        turns = [await say(session, new) for new in SCRIPT[:3]]
        unknown = ChatInput(messages=(), continues=Continuation(num_messages=1, digest=b"?"))
        with pytest.raises(UnknownHistory, match=r"kept history \(0 messages\)"):
            await cluster.client.generate(unknown, session_id="s")

    assert wire.num_messages == [1, 3, 5, 0]
    assert await wrong_turns(turns, demo) == []
