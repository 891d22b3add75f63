"""Reader and writer over real gRPC; the bytes use the loopback transport."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import grpc
import pytest

from kv_transfer.peers.calls import Peers
from kv_transfer.peers.members import Members
from kv_transfer.reading.fencer import Fencer
from kv_transfer.server import ReaderServicer, WriterServicer
from kv_transfer.ticket import Fence, PeerIdentity, Ticket, TicketId
from kv_transfer.transport.cache_memory import checksums_of
from kv_transfer.writing.outgoing import Outgoing
from segue.api.cluster.status import WorkerStatus
from segue.api.errors import (
    Cancelled,
    InvalidRequest,
    LayoutMismatch,
    NotFound,
    StaleEpoch,
    TransferFailed,
    Unavailable,
)
from segue.api.turn import PrefillOutcome, ShipReport
from segue.api.types import (
    Epoch,
    PageId,
    Role,
    SampledToken,
    SlotId,
    TokenLogprob,
    TurnId,
    WorkerId,
)
from segue.cache.layout import CacheLayout
from segue.internal.v1.transfer_pb2_grpc import (
    add_HandoffReaderServicer_to_server,
    add_HandoffWriterServicer_to_server,
)
from segue.wire.status import ErrorInterceptor
from tests.kv_transfer.world import LAYOUT, World, ship_all

OUTCOME = PrefillOutcome(
    first_token=SampledToken(
        token_id=7, logprob=-0.5, top_logprobs=(TokenLogprob(token_id=7, logprob=-0.5),)
    ),
    report=ShipReport(shipped_bytes=10, cached_tokens=4, prefill_s=0.25),
)


def _status_of(peer: PeerIdentity, role: Role = Role.PREFILL) -> WorkerStatus:
    return WorkerStatus(
        worker_id=peer.worker_id, role=role, epoch=peer.epoch, address="127.0.0.1:1"
    )


class Cluster:
    """One prefill and one decode worker behind one gRPC server."""

    def __init__(self, world: World, writer_layout: CacheLayout) -> None:
        self.world = world
        self.source = world.node("prefill-0", layout=writer_layout)
        self.source.fill(seed=1)
        self.target = world.node("decode-0")
        self.reader = world.reader(self.target)
        self.writer = world.writer(self.source)
        self.members = Members()
        self.members.changed([_status_of(self.source.identity)])
        self.to_reader = Peers(self.source.memory_map)
        self.to_writer = Peers(self.target.memory_map)
        self.address = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        face = ReaderServicer(self.reader, vocab_size=100, require_life=self.members.require_life)
        server = grpc.aio.server(interceptors=[ErrorInterceptor()])
        add_HandoffReaderServicer_to_server(face, server)
        add_HandoffWriterServicer_to_server(WriterServicer(self.writer), server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        yield
        await self.to_reader.close()
        await self.to_writer.close()
        await server.stop(None)

    def reserve(self, turn: str) -> Ticket:
        reservation = self.world.reservations[TurnId(turn)] = self.reader.reserve(
            TurnId(turn),
            num_prompt_tokens=10,
            extra_tokens=5,
            writer=dataclasses.replace(self.source.identity, address=self.address),
            lifetime_s=30.0,
        )
        at_reader = dataclasses.replace(reservation.ticket.reader, address=self.address)
        return dataclasses.replace(reservation.ticket, reader=at_reader)

    async def start(self, ticket: Ticket) -> Outgoing:
        reader_map = await self.to_reader.meet(ticket, timeout_s=5)
        pages = tuple(PageId(i) for i in range(3))
        return self.writer.start(ticket, reader_map, source_pages=pages, source_slot=SlotId(0))

    async def commit(self, ticket: Ticket, checksums: dict[str, int]) -> None:
        await self.to_reader.commit(ticket, checksums, OUTCOME, timeout_s=5)


@pytest.fixture
async def cluster(world: World) -> AsyncIterator[Cluster]:
    cluster = Cluster(world, LAYOUT)
    async with cluster.running():
        yield cluster


async def test_a_handoff_ends_with_its_first_token_and_report(cluster: Cluster) -> None:
    ticket = cluster.reserve("turn-a")
    outgoing = await cluster.start(ticket)
    ship_all(outgoing, num_pages=3)
    result = await outgoing.finish()

    await cluster.commit(ticket, dict(result.checksums))

    arrival = await cluster.world.reservations[TurnId("turn-a")].arrived()
    assert arrival.outcome == OUTCOME
    assert cluster.target.pages.counts().working == 4
    with pytest.raises(NotFound, match="has been used"):
        await cluster.commit(ticket, dict(result.checksums))


async def test_a_pull_is_committed_without_an_outcome(cluster: Cluster) -> None:
    ticket = cluster.reserve("turn-a")
    sums = checksums_of(cluster.target.memory_map, ticket.page_ids, ticket.slot_id)

    await cluster.to_reader.commit(ticket, sums, None, timeout_s=5)

    arrival = await cluster.world.reservations[TurnId("turn-a")].arrived()
    assert arrival.outcome is None


async def test_only_members_learn_where_the_cache_is(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv_transfer.peers.members.NEWS_WAIT_S", 0.05)
    ticket = cluster.reserve("turn-a")
    cluster.members.changed([])

    with pytest.raises(Unavailable, match=r"prefill-0 in epoch .* is not in the cluster"):
        await cluster.to_reader.meet(ticket, timeout_s=5)

    known = cluster.source.identity
    later = dataclasses.replace(known, epoch=Epoch(known.epoch + 1))
    cluster.members.changed([_status_of(later)])
    with pytest.raises(Unavailable, match=f"it has prefill-0 in epoch {later.epoch}"):
        await cluster.to_reader.meet(ticket, timeout_s=5)


async def test_workers_meet_once_per_life(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = cluster.reserve("turn-a")
    first = await cluster.to_reader.meet(ticket, timeout_s=5)
    monkeypatch.setattr(cluster.to_reader, "_channel", None)

    assert await cluster.to_reader.meet(ticket, timeout_s=5) is first


async def test_a_ticket_of_another_life_of_the_reader_is_stale(cluster: Cluster) -> None:
    ticket = cluster.reserve("turn-a")
    later = dataclasses.replace(ticket.reader, epoch=Epoch(9))

    with pytest.raises(StaleEpoch, match="expected decode-0 in epoch 9 at"):
        await cluster.to_reader.meet(dataclasses.replace(ticket, reader=later), timeout_s=5)


async def test_another_model_is_refused_with_both_models_named(world: World) -> None:
    cluster = Cluster(world, dataclasses.replace(LAYOUT, model_id="large"))

    async with cluster.running():
        with pytest.raises(LayoutMismatch) as refused:
            await cluster.start(cluster.reserve("turn-a"))

    assert "decode-0 has model_id 'tiny', prefill-0 has model_id 'large'" in str(refused.value)


async def test_wrong_checksums_fail_the_commit_and_free_the_pages(cluster: Cluster) -> None:
    ticket = cluster.reserve("turn-a")

    with pytest.raises(TransferFailed, match="turn turn-a: conv: sent 00000001, arrived"):
        await cluster.commit(ticket, {"conv": 1})

    assert cluster.target.pages.counts().free == 16
    assert list(cluster.world.lost()) == ["turn-a"]


async def test_an_abort_frees_the_pages(cluster: Cluster) -> None:
    ticket = cluster.reserve("turn-a")

    await cluster.to_reader.abort(ticket, "prefill failed", timeout_s=5)
    await cluster.to_reader.abort(ticket, "aborted twice", timeout_s=5)

    assert cluster.target.pages.counts().free == 16


async def test_a_fence_over_the_wire_stops_the_writer_and_frees_the_pages(cluster: Cluster) -> None:
    ticket = cluster.reserve("turn-a")
    outgoing = await cluster.start(ticket)
    outgoing.layer_ready(1, pages=range(2))

    async def ask_to_stop(fence: Fence) -> bool:
        return await cluster.to_writer.fence(fence, timeout_s=5)

    fencer = asyncio.ensure_future(Fencer(cluster.reader, ask_to_stop).run())
    cluster.world.give_up("turn-a", "the client hung up")
    with pytest.raises(Cancelled, match="the reader gave up"):
        await asyncio.wait_for(_stopped(outgoing), timeout=5)
    async with asyncio.timeout(5):
        while cluster.reader.fence_pending():
            await asyncio.sleep(0.001)

    assert cluster.target.pages.counts().free == 16
    fencer.cancel()
    await asyncio.wait([fencer])


async def _stopped(outgoing: Outgoing) -> None:
    while outgoing.is_open:
        await asyncio.sleep(0.001)
    await outgoing.finish()


async def test_a_fence_to_an_address_without_a_process_is_refused(cluster: Cluster) -> None:
    gone = PeerIdentity(worker_id=WorkerId("prefill-9"), epoch=Epoch(1), address="127.0.0.1:1")
    fence = Fence(ticket_id=TicketId("t"), writer=gone)

    assert not await cluster.to_writer.fence(fence, timeout_s=5)


async def test_a_fence_for_another_life_of_the_writer_is_answered_at_once(cluster: Cluster) -> None:
    ticket = cluster.reserve("turn-a")
    await cluster.start(ticket)
    earlier = PeerIdentity(
        worker_id=cluster.source.memory_map.worker_id,
        epoch=Epoch(9),
        address=cluster.address,
    )

    fence = Fence(ticket_id=ticket.ticket_id, writer=earlier)
    await cluster.to_writer.fence(fence, timeout_s=5)

    assert cluster.target.pages.counts().reserved == 4


async def test_an_unreachable_reader_is_unavailable(cluster: Cluster) -> None:
    ticket = cluster.reserve("turn-a")
    nowhere = dataclasses.replace(ticket.reader, address="127.0.0.1:1")

    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await cluster.to_reader.meet(dataclasses.replace(ticket, reader=nowhere), timeout_s=5)


@pytest.mark.parametrize(
    "change",
    [
        {"page_ids": (PageId(9), PageId(1), PageId(2))},
        {"page_ids": (PageId(1), PageId(0), PageId(2))},
        {"slot_id": SlotId(2)},
        {"resident_tokens": 4},
        {"turn_id": TurnId("turn-b")},
        {"seal": b""},
        {"seal": b"x" * 32},
    ],
)
async def test_an_altered_ticket_is_refused(cluster: Cluster, change: dict[str, object]) -> None:
    ticket = cluster.reserve("turn-a")
    assert ticket.page_ids == (0, 1, 2)
    altered = dataclasses.replace(ticket, **change)  # type: ignore[arg-type]  # a test's values

    with pytest.raises(InvalidRequest, match="its seal does not match"):
        await cluster.start(altered)

    assert cluster.world.network.written == []
    await cluster.start(ticket)


async def test_a_ticket_of_another_reader_is_refused(cluster: Cluster, world: World) -> None:
    other = world.reserve(world.reader(world.node("decode-0")), cluster.source)
    mine = cluster.reserve("turn-a")

    with pytest.raises(InvalidRequest, match="its seal does not match"):
        await cluster.start(dataclasses.replace(other, reader=mine.reader))


async def test_a_first_token_outside_the_vocabulary_commits_nothing(
    cluster: Cluster,
) -> None:
    ticket = cluster.reserve("turn-a")
    outcome = dataclasses.replace(OUTCOME, first_token=SampledToken(token_id=100))

    with pytest.raises(InvalidRequest, match="the first token is 100, but the model"):
        await cluster.to_reader.commit(ticket, {}, outcome, timeout_s=5)

    assert cluster.target.pages.counts().reserved == 4
