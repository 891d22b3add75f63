"""Only members of the cluster get and issue tickets."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kv_transfer.peers.members import Members
from kv_transfer.reading.reader import HandoffReader
from kv_transfer.ticket import MAX_LIFETIME_S, PeerIdentity
from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.errors import InvalidRequest, Unavailable
from segue.api.types import Epoch, Role, TurnId, WorkerId
from segue.cache.memory import UnitPools
from tests.kv_transfer.world import Clock, World

PREFILL = WorkerStatus(
    worker_id=WorkerId("prefill-0"), role=Role.PREFILL, epoch=Epoch(3), address="127.0.0.1:7000"
)
WRITER = PeerIdentity(worker_id=PREFILL.worker_id, epoch=PREFILL.epoch, address=PREFILL.address)
STRANGERS = [
    replace(WRITER, worker_id=WorkerId("prefill-9")),
    replace(WRITER, epoch=Epoch(2)),
    replace(WRITER, epoch=Epoch(4)),
    replace(WRITER, address="127.0.0.1:7001"),
]


@pytest.fixture
async def members() -> Members:
    return Members()


def reader_with(members: Members, world: World) -> HandoffReader:
    node = world.node("decode-0")
    return HandoffReader(
        pools=UnitPools(pages=node.pages, slots=node.slots),
        memory_map=node.memory_map,
        address="here:1",
        require_writer=members.require_now,
        clock=Clock(),
    )


def reserve(reader: HandoffReader, writer: PeerIdentity, lifetime_s: float = 30.0) -> float:
    return reader.reserve(
        TurnId("turn"),
        num_prompt_tokens=10,
        extra_tokens=5,
        writer=writer,
        lifetime_s=lifetime_s,
    ).ticket.expires_in_s


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_no_ticket_is_issued_to_a_worker_outside_the_cluster(
    members: Members, world: World, stranger: PeerIdentity
) -> None:
    members.changed([PREFILL])
    reader = reader_with(members, world)

    with pytest.raises(Unavailable, match="is not in the cluster: it"):
        reserve(reader, stranger)

    assert world.nodes[0].pages.counts().free == 16
    assert reserve(reader, WRITER) == 30.0


async def test_a_worker_that_the_cluster_has_lost_gets_no_ticket(
    members: Members, world: World
) -> None:
    members.changed([replace(PREFILL, health=WorkerHealth.LOST)])

    with pytest.raises(Unavailable):
        reserve(reader_with(members, world), WRITER)


async def test_a_tickets_lifetime_is_bounded(members: Members, world: World) -> None:
    members.changed([PREFILL])

    assert reserve(reader_with(members, world), WRITER, lifetime_s=1e9) == MAX_LIFETIME_S


async def test_a_reader_waits_for_a_member_that_is_not_known_yet(members: Members) -> None:
    waiting = asyncio.ensure_future(members.require(WRITER))
    await asyncio.sleep(0)
    members.changed([])
    await asyncio.sleep(0)
    assert not waiting.done()

    members.changed([PREFILL])

    async with asyncio.timeout(1):
        await waiting


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_an_unknown_worker_is_refused_by_name_after_a_wait(
    members: Members, monkeypatch: pytest.MonkeyPatch, stranger: PeerIdentity
) -> None:
    monkeypatch.setattr("kv_transfer.peers.members.NEWS_WAIT_S", 0.01)
    members.changed([PREFILL])

    with pytest.raises(Unavailable, match=f"{stranger.worker_id} in epoch {stranger.epoch} at"):
        await members.require(stranger)


@pytest.mark.parametrize(
    "changed",
    [{"worker_id": ""}, {"epoch": 0}, {"epoch": 2**63}, {"address": ""}, {"address": "nowhere"}],
)
def test_an_invalid_peer_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        replace(WRITER, **changed)  # type: ignore[arg-type]  # a test's values
