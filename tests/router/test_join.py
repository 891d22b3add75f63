"""What the router accepts on a worker's stream, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace

import grpc
import pytest

from router.membership.kept import KeptByWorkers
from router.membership.membership import Membership
from router.membership.service import MembershipService
from router.sessions.table import SessionTable
from router.turn.links import Links
from segue.api.cluster.status import UnitCounts, WorkerHealth, WorkerLoad, WorkerStatus
from segue.api.errors import InvalidRequest
from segue.api.types import Epoch, Role, WorkerId
from segue.internal.v1.worker_pb2 import ClusterView, Heartbeat, KeptChanges
from segue.internal.v1.worker_pb2_grpc import MembershipStub, add_MembershipServicer_to_server
from segue.wire.channel import channel_to
from segue.wire.convert.worker import worker_to_wire
from segue.wire.server import serving
from segue.wire.status import rpc_errors

WORKER = WorkerStatus(
    worker_id=WorkerId("decode-0"), role=Role.DECODE, epoch=Epoch(5), address="127.0.0.1:7000"
)


def heartbeat(worker: WorkerStatus = WORKER, model_id: str = "m1") -> Heartbeat:
    return Heartbeat(status=worker_to_wire(worker), model_id=model_id)


class Door:
    def __init__(self, membership: Membership, kept: KeptByWorkers, stub: MembershipStub) -> None:
        self.membership = membership
        self.kept = kept
        self.stub = stub

    async def join(self, *heartbeats: Heartbeat) -> list[ClusterView]:
        """Sends all heartbeats, then reads until the stream ends or no more views come."""

        async def sent() -> AsyncIterator[Heartbeat]:
            for one in heartbeats:
                yield one
                await asyncio.sleep(0.02)

        with rpc_errors("router"):
            return [view async for view in self.stub.Join(sent(), timeout=5)]


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    membership = Membership(
        model_id="m1",
        heartbeat_timeout_s=5.0,
        forget_lost_s=300.0,
        clock=lambda: 0.0,
        on_status=lambda _: None,
        on_gone=lambda _: None,
    )
    links = Links()
    kept = KeptByWorkers(SessionTable(max_sessions=100, history_bytes=0))
    router = SimpleNamespace(membership=membership, links=links, placing=SimpleNamespace(kept=kept))
    face = MembershipService(router)  # type: ignore[arg-type]  # what it uses of one
    service = (
        "segue.internal.v1.Membership",
        lambda server: add_MembershipServicer_to_server(face, server),
    )
    async with (
        serving("127.0.0.1", 0, lambda address: [service]) as running,
        channel_to(running.address) as channel,
    ):
        yield Door(membership, kept, MembershipStub(channel))
    await links.close()


async def test_a_worker_with_a_valid_identity_is_in_the_view(door: Door) -> None:
    views = await door.join(heartbeat(), heartbeat())

    assert [worker.worker_id for worker in views[0].workers] == ["decode-0"]


async def test_a_stream_without_a_heartbeat_is_refused(door: Door) -> None:
    with pytest.raises(InvalidRequest, match="expected a heartbeat from the worker that joins"):
        await door.join()

    assert door.membership.workers() == []


@pytest.mark.parametrize(
    "other",
    [
        replace(WORKER, worker_id=WorkerId("decode-1")),
        replace(WORKER, epoch=Epoch(6)),
        replace(WORKER, role=Role.PREFILL),
        replace(WORKER, address="127.0.0.1:7001"),
    ],
)
async def test_a_stream_belongs_to_one_worker(door: Door, other: WorkerStatus) -> None:
    with pytest.raises(InvalidRequest, match="expected heartbeats of decode-0 in epoch 5"):
        await door.join(heartbeat(), heartbeat(other))

    (worker,) = door.membership.workers()
    assert worker == replace(WORKER, health=WorkerHealth.LOST)


BAD = {
    "pages of no tokens": (
        heartbeat(replace(WORKER, load=WorkerLoad(page_tokens=0))),
        "page_tokens must be between 1",
    ),
    "counts that do not add up": (
        heartbeat(replace(WORKER, load=WorkerLoad(pages=UnitCounts(total=1, free=9)))),
        "must add up",
    ),
    "no model": (heartbeat(model_id=""), "model_id of decode-0 must not be empty"),
    "no status": (Heartbeat(model_id="m1"), "worker_id must not be empty"),
    "lost": (heartbeat(replace(WORKER, health=WorkerHealth.LOST)), "reports its health as lost"),
}


@pytest.mark.parametrize("case", BAD)
async def test_an_invalid_heartbeat_is_refused_first_or_later(door: Door, case: str) -> None:
    bad, reason = BAD[case]

    with pytest.raises(InvalidRequest, match=reason):
        await door.join(bad)
    assert door.membership.workers() == []
    with pytest.raises(InvalidRequest, match=reason):
        await door.join(heartbeat(), bad)

    (worker,) = door.membership.workers()
    assert worker.load == WORKER.load


def kept(*numbers: int) -> Heartbeat:
    return Heartbeat(kept=KeptChanges(with_state=b"".join(bytes([n]) * 16 for n in numbers)))


async def test_what_a_worker_keeps_comes_between_its_heartbeats(door: Door) -> None:
    await door.join(heartbeat(), kept(1, 2), heartbeat(), kept(3))

    assert len(door.kept.prefixes) == 3


async def test_a_new_stream_starts_with_all_that_is_kept(door: Door) -> None:
    await door.join(heartbeat(), kept(1, 2))

    await door.join(heartbeat(), kept(3))

    assert len(door.kept.prefixes) == 1


async def test_a_malformed_report_ends_the_stream(door: Door) -> None:
    with pytest.raises(InvalidRequest, match="with_state must have 16 bytes"):
        await door.join(heartbeat(), Heartbeat(kept=KeptChanges(with_state=b"x")))


async def test_the_late_end_of_a_broken_stream_does_not_lose_the_worker(door: Door) -> None:
    """A router notices some breaks late: by then the worker has joined again."""

    def stream(end: asyncio.Event) -> AsyncIterator[Heartbeat]:
        async def sent() -> AsyncIterator[Heartbeat]:
            yield heartbeat()
            await end.wait()
            yield kept(9)

        return sent()

    ends = asyncio.Event(), asyncio.Event()
    broken = door.stub.Join(stream(ends[0]), timeout=10)
    await broken.read()
    healthy = door.stub.Join(stream(ends[1]), timeout=10)
    await healthy.read()

    ends[0].set()
    while await broken.read() is not grpc.aio.EOF:
        pass
    assert [w.health for w in door.membership.workers()] == [WorkerHealth.READY]
    assert len(door.kept.prefixes) == 0

    ends[1].set()
    while await healthy.read() is not grpc.aio.EOF:
        pass
    assert [w.health for w in door.membership.workers()] == [WorkerHealth.LOST]
    assert len(door.kept.prefixes) == 1
