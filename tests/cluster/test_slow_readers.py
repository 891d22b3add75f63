"""Clients that do not read their answers: they delay no other turn, hold bounded memory, and lose
their places.

How much is sent to a client that reads nothing is up to its side: gRPC's own library takes 4 MiB
for each stream, which is a whole answer of most turns (measured: its memory grows by that much, a
server's by nothing). So these clients have small buffers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from router.config import RouterConfig
from segue.api.errors import DeadlineExceeded
from segue.api.turn import TurnStarted
from segue.api.types import SamplingParams, StopConditions, TextInput
from segue.gateway.__main__ import running_before
from segue.gateway.config import GatewayConfig
from segue.gateway.http.protocol import Protocol
from segue.launch.config import Config
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsStub
from tests.cluster.conftest import ENGINE, LocalCluster, local_cluster
from tests.cluster.test_crowds import answer, as_before

if TYPE_CHECKING:
    # For type annotations only: the generated module does not have this name at run time.
    from segue.v1.session_pb2_grpc import SessionsAsyncStub

pytestmark = pytest.mark.slow

logger = logging.getLogger(__name__)

NUM_UNREAD = 40
# Of the eight turns that run at once.
AT_ONCE = 6
UNREAD_S = 1.0
# With their log-probabilities, a few hundred tokens are more than small buffers hold.
LONG = 4_000
LOGPROBS = 20
DEADLINE_S = 4.0


@pytest.fixture
async def cluster(demo: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalCluster]:
    monkeypatch.setattr("segue.wire.status.UNREAD_S", UNREAD_S)
    monkeypatch.setattr(Protocol, "unread_s", UNREAD_S)
    # All of it shares one event loop with its clients: heartbeats may be late.
    patient = RouterConfig(heartbeat_timeout_s=30.0)
    async with local_cluster(demo, Config(engine=ENGINE, router=patient)) as cluster:
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
    return any(name[1].startswith(turn_id) for name in cluster.router._ongoing._newest)


@contextlib.asynccontextmanager
async def stopped_client(target: str, number: int) -> AsyncIterator[SessionsAsyncStub]:
    """A connection of its own that takes 64 KiB for each stream."""
    # gRPC shares connections between channels of the same options.
    options = [
        ("grpc.http2.bdp_probe", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("segue.number", number),
    ]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        yield SessionsStub(channel)


async def test_a_stream_that_is_not_read_ends(cluster: LocalCluster) -> None:
    async def leave_unread(number: int) -> str:
        turn_id = f"unread-{number}."
        request = pb.GenerateRequest(
            text="Hello",
            turn_id=turn_id,
            sampling=pb.Sampling(temperature=0.0, logprobs=LOGPROBS),
            stop=pb.Stop(max_tokens=LONG, ignore_eos=True),
        )
        async with stopped_client(cluster.client.target, number) as stub:
            call = stub.Generate(request)
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
        turn_id = f"unread-{number}."
        events = cluster.client.stream(
            TextInput("Hello"),
            turn_id=turn_id,
            sampling=SamplingParams(temperature=0.0, logprobs=LOGPROBS),
            stop=StopConditions(max_tokens=LONG, ignore_eos=True),
            timeout_s=DEADLINE_S,
        )
        async with contextlib.aclosing(events):
            try:
                # It may run out of time while it waits for a place, too.
                assert isinstance(await anext(events), TurnStarted)
                while is_running(cluster, turn_id):
                    await asyncio.sleep(0.05)
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
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: %s\r\n"
    async with running_before(cluster.client, GatewayConfig(port=0)) as gateway:

        async def leave_unread(number: int) -> str:
            turn_id = f"unread-{number}."
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", gateway.port))
            reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
            writer.write(head % turn_id.encode() + b"Content-Length: %d\r\n\r\n" % len(octets))
            writer.write(octets)
            await reader.readexactly(12)
            assert is_running(cluster, turn_id)
            while is_running(cluster, turn_id):
                await asyncio.sleep(0.05)
            # What the kernel still has would take long to read through so small a buffer.
            writer.transport.abort()
            return "over"

        before = (await cluster.client.status()).router.cancelled_turns
        assert await beside_others(cluster, leave_unread) == {"over": NUM_UNREAD}
        after = (await cluster.client.status()).router.cancelled_turns
        # None had its whole answer.
        assert after - before == NUM_UNREAD
