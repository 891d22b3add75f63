"""The epoch of a worker's new life, when the clock was set back after an earlier one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from router.membership.membership import MAX_ROUTERS, Membership
from router.membership.service import MembershipService
from router.turn.links import Links
from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.errors import InvalidRequest, StaleEpoch
from segue.api.types import Epoch, Role, WorkerId
from segue.internal.v1.worker_pb2_grpc import add_MembershipServicer_to_server
from segue.wire.membership_calls import last_epoch
from segue.wire.server import serving
from segue.wire.streams import join
from segue.wire.streams.join import KeepsNothing
from segue.worker.membership.identity import Identity, next_epoch, take_identity
from segue.worker.membership.joining import stay_joined_to

WORKER = WorkerStatus(
    worker_id=WorkerId("decode-0"), role=Role.DECODE, epoch=Epoch(5_000), address="127.0.0.1:7000"
)
SET_BACK_NS = 1_000


@pytest.mark.parametrize(
    ("now", "latest", "epoch"), [(7, 0, 7), (7, 6, 7), (7, 7, 10), (7, 9, 12), (1, 5_000, 5_003)]
)
def test_an_epoch_is_the_time_or_comes_after_the_latest(now: int, latest: int, epoch: int) -> None:
    assert next_epoch(now, latest, step=3) == epoch


@contextlib.asynccontextmanager
async def door(*earlier: WorkerStatus) -> AsyncIterator[tuple[str, Membership]]:
    """A router's address and its members. The `earlier` lives have left."""
    membership = Membership(
        model_id="m1",
        heartbeat_timeout_s=5.0,
        forget_lost_s=300.0,
        clock=lambda: 0.0,
        on_status=lambda _: None,
        on_gone=lambda _: None,
    )
    for worker in earlier:
        membership.heartbeat(worker, "m1")
        membership.left(worker.worker_id, worker.epoch)
    links = Links()
    kept = SimpleNamespace(prefixes=SimpleNamespace(forget=lambda worker_id: None))
    router = SimpleNamespace(membership=membership, links=links, placing=SimpleNamespace(kept=kept))
    face = MembershipService(router)  # type: ignore[arg-type]  # what it uses of one
    service = (
        "segue.internal.v1.Membership",
        lambda server: add_MembershipServicer_to_server(face, server),
    )
    async with serving("127.0.0.1", 0, lambda address: [service]) as server:
        yield server.address, membership
    await links.close()


async def take(*routers: str) -> Identity:
    return await take_identity(WORKER.worker_id, Role.DECODE, routers, clock_ns=lambda: SET_BACK_NS)


def joining(identity: Identity, leaving: asyncio.Event, *routers: str) -> asyncio.Future[None]:
    return asyncio.ensure_future(
        stay_joined_to(
            routers,
            status=lambda: replace(WORKER, epoch=identity.epoch),
            model_id="m1",
            heartbeat_s=0.05,
            on_members=lambda _: None,
            leaving=leaving,
            kept=KeepsNothing,
        )
    )


async def test_a_worker_whose_clock_was_set_back_joins_every_router() -> None:
    """One router has seen the earlier life, one has not, and one cannot be reached."""
    async with asyncio.timeout(10), door(WORKER) as old, door() as new:
        routers = old[0], new[0], "127.0.0.1:1"
        identity = await take(*routers)
        leaving = asyncio.Event()
        joined = joining(identity, leaving, *routers)
        while not all(membership.workers() for _, membership in (old, new)):
            await asyncio.sleep(0.01)

        for _, membership in (old, new):
            (member,) = membership.workers()
            assert (member.epoch, member.health) == (identity.epoch, WorkerHealth.READY)
        # Both learn how many routers there are: tenants' limits are divided by that.
        while [membership.num_routers for _, membership in (old, new)] != [2, 2]:
            await asyncio.sleep(0.01)
        leaving.set()
        await joined
    assert WORKER.epoch < identity.epoch


async def test_two_processes_of_one_id_get_different_epochs() -> None:
    async with door(WORKER) as (address, _):
        first, second = await asyncio.gather(take(address), take(address))

    assert first.epoch != second.epoch


async def test_without_a_router_the_clock_gives_the_epoch() -> None:
    assert (await take("127.0.0.1:1")).epoch == SET_BACK_NS


async def test_a_worker_that_a_late_router_refuses_ends_its_life() -> None:
    """It may be known elsewhere by its epoch already, so it cannot just take another one."""
    async with asyncio.timeout(10), door(WORKER) as (address, _):
        identity = await take()
        with pytest.raises(StaleEpoch, match="expected epoch 5000 or later, got 1000"):
            await joining(identity, asyncio.Event(), address)
        again = await take(address)
        assert again.epoch > WORKER.epoch


async def test_a_worker_that_was_replaced_does_not_come_back_as_the_latest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(join, "REJOIN_AFTER_S", 0.01)
    async with asyncio.timeout(10), door() as (address, membership):
        leaving = asyncio.Event()
        joined = joining(await take(address), leaving, address)
        while not membership.workers():
            await asyncio.sleep(0.01)
        membership.heartbeat(WORKER, "m1")
        # Its stream ends at its next heartbeat, and joining again is refused.
        await asyncio.sleep(0.3)
        assert [worker.epoch for worker in membership.workers()] == [WORKER.epoch]
        assert not joined.done()
        leaving.set()
        await joined


async def test_only_workers_that_are_here_say_how_many_routers_there_are() -> None:
    async with door() as (_, membership):
        assert membership.num_routers == 1
        membership.heartbeat(WORKER, "m1", 10**9)
        assert membership.num_routers == MAX_ROUTERS
        membership.heartbeat(WORKER, "m1", 2)
        assert membership.num_routers == 2
        membership.lost(WORKER.worker_id, WORKER.epoch)
        assert membership.num_routers == 1


async def test_a_question_without_a_name_is_refused() -> None:
    async with door() as (address, _):
        with pytest.raises(InvalidRequest, match="worker_id must not be empty"):
            await last_epoch(address, WorkerId(""))
