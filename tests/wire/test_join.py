"""A worker's stream to the router: how it leaves, and what the router sees."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from segue.api.cluster.kept import KeptChanges
from segue.api.cluster.status import WorkerStatus
from segue.api.types import Epoch, Role, WorkerId
from segue.internal.v1 import worker_pb2
from segue.internal.v1.worker_pb2_grpc import MembershipServicer, add_MembershipServicer_to_server
from segue.wire.convert.worker import worker_to_wire
from segue.wire.server import serving
from segue.wire.streams import join
from segue.wire.streams.join import stay_joined

STATUS = WorkerStatus(
    worker_id=WorkerId("decode-0"), role=Role.DECODE, epoch=Epoch(1), address="127.0.0.1:1"
)


class RecordingRouter(MembershipServicer):
    """Records heartbeats, and ends a stream when its worker leaves."""

    def __init__(self, *members: WorkerStatus) -> None:
        self._view = worker_pb2.ClusterView(workers=[worker_to_wire(one) for one in members])
        self.leaves: list[bool] = []
        """For each heartbeat, whether it was a leave."""
        self.reports: list[bytes] = []
        self.has_joined = asyncio.Event()

    async def Join(
        self,
        request_iterator: AsyncIterator[worker_pb2.Heartbeat],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[worker_pb2.ClusterView]:
        yield self._view
        async for heartbeat in request_iterator:
            if heartbeat.HasField("kept"):
                self.reports.append(heartbeat.kept.with_state)
                continue
            self.leaves.append(heartbeat.leaving)
            self.has_joined.set()


@contextlib.asynccontextmanager
async def recording_router(
    *members: WorkerStatus,
) -> AsyncIterator[tuple[RecordingRouter, str]]:
    router = RecordingRouter(*members)

    def services_at(address: str) -> Any:
        return [
            (
                "segue.internal.v1.Membership",
                lambda server: add_MembershipServicer_to_server(router, server),
            )
        ]

    async with serving("127.0.0.1", 0, services_at, grace_s=0.05) as server:
        yield router, server.address


def joining(address: str, leaving: asyncio.Event) -> asyncio.Future[None]:
    return asyncio.ensure_future(
        stay_joined(
            address,
            status=lambda: STATUS,
            model_id="m1",
            heartbeat_s=60.0,
            on_view=lambda workers: None,
            leaving=leaving,
        )
    )


async def test_a_workers_last_message_is_a_leave_and_is_sent_at_once() -> None:
    async with recording_router() as (router, address), asyncio.timeout(10):
        leaving = asyncio.Event()
        joined = joining(address, leaving)
        await router.has_joined.wait()

        leaving.set()
        await joined

    assert router.leaves == [False, True]


async def test_a_worker_leaves_without_waiting_for_an_unreachable_router() -> None:
    leaving = asyncio.Event()
    joined = joining("127.0.0.1:1", leaving)
    await asyncio.sleep(0)

    leaving.set()

    async with asyncio.timeout(2):
        await joined


async def test_a_worker_logs_once_that_its_router_is_away_and_when_it_is_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "REJOIN_AFTER_S", 0.01)
    leaving = asyncio.Event()
    with caplog.at_level("INFO", logger=join.__name__):
        async with recording_router() as (router, address), asyncio.timeout(10):
            joined = joining(address, leaving)
            await router.has_joined.wait()
        while "cannot reach" not in caplog.text:
            await asyncio.sleep(0.01)
        # Time for a few more attempts.
        await asyncio.sleep(0.5)
        leaving.set()
        await joined

    lines = [record.getMessage() for record in caplog.records if record.name == join.__name__]
    assert [line.split(";")[0] for line in lines if "stream" not in line] == [
        "joined the router",
        "cannot reach the router",
    ]


async def test_a_router_that_does_not_start_is_awaited_before_it_is_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "REJOIN_AFTER_S", 0.01)
    monkeypatch.setattr(join, "_ROUTER_STARTS_S", 0.2)
    leaving = asyncio.Event()
    with caplog.at_level("INFO", logger=join.__name__):
        joined = joining("127.0.0.1:1", leaving)
        async with asyncio.timeout(10):
            while "cannot reach" not in caplog.text:
                await asyncio.sleep(0.01)
            leaving.set()
            await joined

    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("INFO", "waiting for the router"),
        ("WARNING", "cannot reach the router; retrying"),
    ]


class KeptByTest:
    """Has two pieces at first, and one more whenever a test puts it there."""

    def __init__(self) -> None:
        self.waiting = [KeptChanges(with_state=(bytes(16),)), KeptChanges(with_state=(b"1" * 16,))]
        self.is_closed = False

    def pieces(self) -> Iterator[KeptChanges]:
        while self.waiting:
            yield self.waiting.pop(0)

    def close(self) -> None:
        self.is_closed = True


async def test_what_is_kept_is_sent_at_once_and_changes_soon() -> None:
    kept, leaving = KeptByTest(), asyncio.Event()
    async with recording_router() as (router, address), asyncio.timeout(10):
        joined = asyncio.ensure_future(
            stay_joined(
                address,
                status=lambda: STATUS,
                model_id="m1",
                heartbeat_s=60.0,
                on_view=lambda workers: None,
                leaving=leaving,
                kept=lambda: kept,
            )
        )
        while len(router.reports) < 2:
            await asyncio.sleep(0.01)
        kept.waiting.append(KeptChanges(with_state=(b"2" * 16,)))
        while len(router.reports) < 3:
            await asyncio.sleep(0.01)
        leaving.set()
        await joined

    assert router.reports == [bytes(16), b"1" * 16, b"2" * 16]
    # The heartbeats' own pace did not change.
    assert router.leaves == [False, True]
    assert kept.is_closed
