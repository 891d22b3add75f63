"""Clients that do not read their answers: they delay no other turn, hold bounded memory, and lose
their places.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from segue.api.errors import DeadlineExceeded
from segue.api.turn import TurnStarted
from segue.api.types import SamplingParams, StopConditions, TextInput
from segue.gateway.__main__ import running_before
from segue.gateway.config import GatewayConfig
from segue.gateway.http.protocol import Protocol
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsStub
from segue.wire.channel import channel_to
from tests.cluster.conftest import LocalCluster, local_cluster
from tests.cluster.test_crowds import answer, as_before

pytestmark = pytest.mark.slow

logger = logging.getLogger(__name__)

NUM_UNREAD = 40
# Of the eight turns that run at once.
AT_ONCE = 6
UNREAD_S = 1.0
# With their log-probabilities, a few hundred tokens are more than the buffers of a stream hold.
LONG = 4_000
LOGPROBS = 20
DEADLINE_S = 4.0


@pytest.fixture
async def cluster(demo: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalCluster]:
    monkeypatch.setattr("segue.wire.status.UNREAD_S", UNREAD_S)
    monkeypatch.setattr(Protocol, "unread_s", UNREAD_S)
    async with local_cluster(demo) as cluster:
        await asyncio.gather(*(answer(cluster.client, n) for n in range(20)))
        yield cluster


async def beside_others(
    cluster: LocalCluster, leave_unread: Callable[[int], Awaitable[str]]
) -> Counter[str]:
    """How the unread turns ended. Others are answered all the time."""
    gate = asyncio.Semaphore(AT_ONCE)
    took_s: list[float] = []

    async def one(number: int) -> str:
        async with gate:
            return await leave_unread(number)

    async with as_before(cluster):
        unread = asyncio.gather(*(one(number) for number in range(NUM_UNREAD)))
        while not unread.done():
            started_at = time.monotonic()
            assert await answer(cluster.client, len(took_s) % 20) == "answered"
            took_s.append(time.monotonic() - started_at)
        ends = Counter(await unread)
    logger.info("%s; %d others, the slowest %.2f s", ends, len(took_s), max(took_s))
    # On two cores that others share. One that waits for a reader waits for `UNREAD_S` or longer,
    # and would at least once for each round of unread turns.
    assert sorted(took_s)[len(took_s) // 2] < UNREAD_S
    return ends


def is_running(cluster: LocalCluster, turn_id: str) -> bool:
    return any(name[1] == turn_id for name in cluster.router._ongoing._newest)


async def test_a_stream_that_is_not_read_ends(cluster: LocalCluster) -> None:
    async def leave_unread(number: int) -> str:
        turn_id = f"unread-{number}"
        request = pb.GenerateRequest(
            text="Hello",
            turn_id=turn_id,
            sampling=pb.Sampling(temperature=0.0, logprobs=LOGPROBS),
            stop=pb.Stop(max_tokens=LONG, ignore_eos=True),
        )
        # A connection of its own, as of a client that has stopped.
        async with channel_to(cluster.client.target) as channel:
            call = SessionsStub(channel).Generate(request)
            await call.read()
            assert is_running(cluster, turn_id)
            while is_running(cluster, turn_id):
                await asyncio.sleep(0.05)
            try:
                while await call.read():
                    pass
            except grpc.aio.AioRpcError as error:
                return error.code().name
        return "OK"

    assert await beside_others(cluster, leave_unread) == {"DEADLINE_EXCEEDED": NUM_UNREAD}


async def test_a_turn_of_a_shared_stream_that_is_not_read_ends_at_its_deadline(
    cluster: LocalCluster,
) -> None:
    async def leave_unread(number: int) -> str:
        turn_id = f"unread-{number}"
        events = cluster.client.stream(
            TextInput("Hello"),
            turn_id=turn_id,
            sampling=SamplingParams(temperature=0.0, logprobs=LOGPROBS),
            stop=StopConditions(max_tokens=LONG, ignore_eos=True),
            timeout_s=DEADLINE_S,
        )
        async with contextlib.aclosing(events):
            assert isinstance(await anext(events), TurnStarted)
            while is_running(cluster, turn_id):
                await asyncio.sleep(0.05)
            try:
                async for _ in events:
                    pass
            except DeadlineExceeded:
                return "deadline"
        return "answered"

    ends = await beside_others(cluster, leave_unread)
    # A fast machine answers some in time: they wait in the client.
    assert ends["deadline"] + ends["answered"] == NUM_UNREAD
    assert ends["deadline"] > 0


async def test_a_client_of_the_gateway_that_reads_nothing_is_given_up(
    cluster: LocalCluster,
) -> None:
    body = {
        "messages": [{"role": "user", "content": "Count from 1 to 60."}],
        "max_tokens": LONG,
        "ignore_eos": True,
        "stream": True,
        "logprobs": True,
        "top_logprobs": LOGPROBS,
    }
    octets = json.dumps(body).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    async with running_before(cluster.client, GatewayConfig(port=0)) as gateway:

        async def leave_unread(number: int) -> str:
            # The smallest buffer that the system gives.
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
            writer.write(head % len(octets) + octets)
            started_at = time.monotonic()
            try:
                await reader.readexactly(12)
                while not writer.transport.is_closing():
                    assert time.monotonic() - started_at < 120, "it was not given up"
                    await asyncio.sleep(0.05)
            except (ConnectionError, asyncio.IncompleteReadError):
                return "closed"
            finally:
                writer.transport.abort()
            return "closed"

        assert await beside_others(cluster, leave_unread) == {"closed": NUM_UNREAD}
