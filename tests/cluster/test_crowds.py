"""Many clients at once: turns, cancels, idle connections. Afterwards memory, threads and tasks are
as before.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from segue.api.errors import Overloaded, SegueError
from segue.api.turn import TokenDelta
from segue.api.types import StopConditions, TextInput, TokenInput, TurnId
from segue.sdk.client import Client
from segue.wire.channel import is_serving
from tests.cluster.conftest import LocalCluster, local_cluster
from tests.cluster.waiting import is_idle, wait_until_idle

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

COUNT = TextInput("Count from 1 to 30.")
PROMPT = TokenInput(tuple(range(20, 120)))
# What one process with all of a cluster may keep of a crowd: buffers of gRPC, records of sessions.
MAX_GROWN_MIB = 64


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(demo: Path) -> AsyncIterator[LocalCluster]:
    async with local_cluster(demo) as cluster:
        # Allocates what a cluster keeps for good.
        await asyncio.gather(*(answer(cluster.client, n) for n in range(100)))
        yield cluster


@dataclass(frozen=True)
class Used:
    rss_mib: float
    num_threads: int
    num_tasks: int


def used() -> Used:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Used(pages * 4096 / 2**20, threading.active_count(), len(asyncio.all_tasks()))


@contextlib.asynccontextmanager
async def as_before(cluster: LocalCluster) -> AsyncIterator[None]:
    """The cluster still answers afterwards, and holds what it held."""
    await wait_until_idle(cluster.client)
    # The loop's pool starts a thread when all others are busy, up to its limit.
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.1) for _ in range(32)))
    before = used()
    yield
    status = await wait_until_idle(cluster.client, 60.0)
    assert is_idle(status), status
    assert cluster.router._ongoing._newest == {}
    cluster.check_invariants()
    assert await answer(cluster.client, 0) == "answered"
    for _ in range(100):
        # Closed connections take a moment to go.
        after = used()
        if after.num_tasks <= before.num_tasks + 2:
            break
        await asyncio.sleep(0.1)
    assert after.num_tasks <= before.num_tasks + 2, (before, after)
    assert after.num_threads <= before.num_threads + 2, (before, after)
    assert after.rss_mib <= before.rss_mib + MAX_GROWN_MIB, (before, after)


async def answer(client: Client, number: int, *, turn_id: str | None = None) -> str:
    """How a short turn of a session of its own ended."""
    try:
        await client.generate(
            PROMPT,
            session_id=f"crowd-{number}",
            turn_id=turn_id,
            stop=StopConditions(max_tokens=4),
        )
    except Overloaded as error:
        return "refused with a hint" if error.retry_after_s else "refused without a hint"
    except SegueError as error:
        return type(error).__name__
    return "answered"


async def test_400_turns_at_once_are_answered(cluster: LocalCluster) -> None:
    async with as_before(cluster):
        ends = Counter(await asyncio.gather(*(answer(cluster.client, n) for n in range(400))))

    assert set(ends) <= {"answered", "refused with a hint"}
    assert ends["answered"] > 100


async def cancel_by_id(cluster: LocalCluster, number: int) -> None:
    turn = asyncio.ensure_future(answer(cluster.client, number, turn_id=f"cancelled-{number}"))
    await asyncio.sleep(number % 7 * 0.01)
    await cluster.client.cancel(TurnId(f"cancelled-{number}"))
    await turn


async def hang_up(cluster: LocalCluster, number: int) -> None:
    turn = asyncio.ensure_future(answer(cluster.client, number))
    await asyncio.sleep(number % 11 * 0.01)
    turn.cancel()
    await asyncio.wait({turn})


async def leave_at_the_first_token(cluster: LocalCluster, number: int) -> None:
    with contextlib.suppress(SegueError):
        async with contextlib.aclosing(cluster.client.stream(COUNT)) as events:
            async for event in events:
                if isinstance(event, TokenDelta):
                    return


async def run_out_of_time(cluster: LocalCluster, number: int) -> None:
    with contextlib.suppress(SegueError):
        await cluster.client.generate(PROMPT, timeout_s=0.001 * (1 + number % 50))


async def test_2000_cancels_in_four_ways_leave_nothing(cluster: LocalCluster) -> None:
    ways = [cancel_by_id, hang_up, leave_at_the_first_token, run_out_of_time]
    gate = asyncio.Semaphore(64)

    async def one(number: int) -> None:
        async with gate:
            await ways[number % len(ways)](cluster, number)

    async with as_before(cluster):
        await asyncio.gather(*(one(number) for number in range(2_000)))


async def test_500_idle_connections_cost_no_thread(cluster: LocalCluster) -> None:
    target = cluster.client.target
    async with as_before(cluster), contextlib.AsyncExitStack() as stack:
        before = threading.active_count()
        for number in range(500):
            # gRPC shares connections between channels of the same options.
            options = [("grpc.use_local_subchannel_pool", 1), ("segue.number", number)]
            channel = grpc.aio.insecure_channel(target, options=options)
            await stack.enter_async_context(channel)
            await is_serving(channel, 10.0)
        assert await answer(cluster.client, 1) == "answered"
        assert threading.active_count() <= before + 2
