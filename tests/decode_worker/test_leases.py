"""Leases in both tiers, on a real event loop: pauses of fractions of a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from decode_worker.memory import leases as module
from decode_worker.memory.leases import TieredLeases
from segue.api.errors import NotFound
from segue.api.types import SessionId
from tests.cache.prefix_world import prompt
from tests.cache.tiered_world import TieredWorld

A, B = prompt(1, 40), prompt(2, 40)
a, child = SessionId("a"), SessionId("child")


class Desk(TieredWorld):
    """A world with leases in both tiers."""

    def __init__(self, *, host_pages: int = 16) -> None:
        super().__init__(host_pages=host_pages)
        self.leases = TieredLeases(self.cache, self.tier, lambda: self.now)

    async def turn(self, tokens: tuple[int, ...], *checkpoints: int) -> None:
        """Returns when its copy to the host is complete, too."""
        hold = self.run(tokens, *checkpoints)
        self.leases.grant(a, hold.node, 100.0)
        self.cache.release(hold)
        await self.copied()

    async def copied(self) -> None:
        async with asyncio.timeout(5):
            while self.tier._tasks or self.leases._copies:
                await asyncio.sleep(0.001)

    def leased_on(self) -> tuple[bool, bool]:
        return self.cache.leases.get(a) is not None, self.tier.cache.leases.get(a) is not None


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(module, "_MARGIN_S", 0.05)
    made = Desk()
    yield made
    made.leases.close()
    await made.tier.close()
    made.check()


async def test_after_a_turn_a_session_has_a_lease_in_both_tiers(desk: Desk) -> None:
    await desk.turn(A[:16], 16)

    assert desk.leased_on() == (True, True)
    assert desk.leases.end(a)
    assert desk.leased_on() == (False, False)
    assert not desk.leases.end(a)


async def test_a_paused_session_is_evicted_first_and_loaded_back(desk: Desk) -> None:
    await desk.turn(A[:16], 16)
    desk.keep(B[:16])

    started_at = time.monotonic()
    desk.leases.pause(a, 0.3, 100.0)
    await desk.copied()
    assert desk.leased_on() == (False, True)
    desk.cache.make_room(8 + 4, 0)
    assert (desk.resident(A), desk.resident(B)) == (0, 16)
    async with asyncio.timeout(5):
        while not desk.leased_on()[0]:
            await asyncio.sleep(0.005)
    waited_s = time.monotonic() - started_at

    assert desk.resident(A) == 16
    assert desk.resume_at(A) == 16
    assert waited_s > 0.2
    assert desk.leases._returns == {}
    desk.check_bytes(A)


async def test_memory_that_is_not_needed_is_not_evicted(desk: Desk) -> None:
    await desk.turn(A[:16])

    desk.leases.pause(a, 600.0, 100.0)
    await desk.copied()

    assert desk.resident(A) == 16


async def test_a_pause_too_short_to_pay_is_a_renewal(desk: Desk) -> None:
    await desk.turn(A[:16])

    desk.leases.pause(a, 0.04, 100.0)
    await desk.copied()

    assert desk.leased_on() == (True, True)


async def test_a_session_that_the_host_has_no_room_for_stays_leased_on_the_device() -> None:
    desk = Desk(host_pages=3)
    await desk.turn(A[:16])

    desk.leases.pause(a, 600.0, 100.0)
    await desk.copied()

    assert desk.leased_on() == (True, True)
    await desk.tier.close()


async def test_without_a_host_tier_a_pause_is_a_renewal() -> None:
    desk = Desk(host_pages=0)
    await desk.turn(A[:16])

    desk.leases.pause(a, 600.0, 100.0)
    desk.now = 650.0

    assert desk.leased_on() == (True, False)
    desk.now = 700.0
    assert desk.leased_on() == (False, False)
    await desk.tier.close()


async def test_a_turn_ends_its_sessions_pause(desk: Desk) -> None:
    await desk.turn(A[:16])
    desk.leases.pause(a, 600.0, 100.0)
    await desk.copied()

    await desk.turn(A[:24])

    lease = desk.cache.leases.get(a)
    assert lease is not None
    assert (lease.num_tokens, lease.expires_at) == (24, 100.0)
    assert desk.leases._returns == {}


async def test_a_turn_during_the_load_is_not_undone(desk: Desk) -> None:
    await desk.turn(A[:16])
    desk.leases.pause(a, 0.06, 100.0)
    await desk.copied()
    desk.evict_all()
    desk.may_copy.clear()
    async with asyncio.timeout(5):
        while not desk.pages.counts().working:
            await asyncio.sleep(0.005)

    hold = desk.run(A[:24])
    desk.leases.grant(a, hold.node, 100.0)
    desk.cache.release(hold)
    desk.may_copy.set()
    await desk.copied()
    await asyncio.sleep(0.01)

    lease = desk.cache.leases.get(a)
    assert lease is not None
    assert lease.num_tokens == 24


async def test_a_session_that_lost_its_device_lease_is_still_known(desk: Desk) -> None:
    await desk.turn(A[:16])
    desk.evict_all()
    assert desk.leased_on() == (False, True)

    desk.leases.renew(a, 300.0)
    desk.leases.fork(a, child)
    desk.leases.pause(a, 0.06, 300.0)
    async with asyncio.timeout(5):
        while not desk.leased_on()[0]:
            await asyncio.sleep(0.005)

    assert desk.resident(A) == 16
    assert desk.leases.end(child)


async def test_a_session_released_while_it_is_copied_gets_no_lease(desk: Desk) -> None:
    hold = desk.run(A[:16])
    desk.leases.grant(a, hold.node, 100.0)
    desk.cache.release(hold)

    assert desk.leases.end(a)
    await desk.copied()

    assert desk.leased_on() == (False, False)


@pytest.mark.parametrize(
    "ask",
    [
        lambda leases: leases.renew(a, 1.0),
        lambda leases: leases.pause(a, 1.0, 1.0),
        lambda leases: leases.fork(a, child),
    ],
)
async def test_a_session_with_no_lease_is_not_found(
    desk: Desk, ask: Callable[[TieredLeases], None]
) -> None:
    with pytest.raises(NotFound, match="session a has no lease here"):
        ask(desk.leases)
