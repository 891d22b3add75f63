"""The host tier on an event loop, with real tensors on both sides and the real copying thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from segue.api.prompt import Prompt
from segue.api.types import SessionId
from segue.cache.host.copying import all_pages, up_to_a_state
from segue.cache.layout import Unit
from segue.cache.prefix.cache import PrefixCache
from segue.cache.unit_pool import AccountingError, UnitState
from tests.cache.prefix_world import prompt
from tests.cache.tiered_world import TieredWorld

A, B, C, D = (prompt(session, 40) for session in (1, 2, 3, 4))


@pytest.fixture
async def world() -> AsyncIterator[TieredWorld]:
    made = TieredWorld()
    yield made
    made.may_copy.set()
    await made.tier.close()
    made.check()


async def test_an_evicted_prefix_comes_back_byte_by_byte(world: TieredWorld) -> None:
    world.keep(A[:12], 8)
    await world.offload(A[:12])
    world.evict_all()
    assert world.resident(A) == 0

    await world.tier.load(Prompt(A), all_pages)

    assert (world.resident(A), world.resume_at(A)) == (12, 8)
    world.check_bytes(A)
    assert world.loads == [12]
    assert world.tier.num_offloaded_tokens == 12
    assert world.num_freed == 2
    assert all("cache-copy" in name for name in world.threads)


async def test_only_new_pages_are_copied_to_the_host(world: TieredWorld) -> None:
    world.keep(A[:12], 8)
    await world.offload(A[:12])
    world.keep(A[:20], 20)
    world.copies.clear()

    await world.offload(A[:20])
    await world.offload(A[:20])

    assert world.copies == [(Unit.SLOT, 1), (Unit.PAGE, 2)]
    assert world.on_the_host(A) == 20


async def test_evictions_are_counted_by_whether_the_host_has_the_page(
    world: TieredWorld,
) -> None:
    world.keep(A[:8], 8)
    world.keep(B[:12], 12)
    await world.offload(A[:8])

    world.evict_all()

    cache = world.cache
    assert (cache.num_evicted_pages, cache.num_moved_pages) == (5, 2)
    assert (cache.num_evicted_slots, cache.num_moved_slots) == (2, 1)


async def test_a_page_that_the_host_evicted_is_dropped_when_the_device_evicts_it(
    world: TieredWorld,
) -> None:
    world.keep(A[:8])
    await world.offload(A[:8])
    host = world.tier.cache
    host.make_room(world.tier.memory.pages.total, 0)

    world.evict_all()

    assert world.cache.num_moved_pages == 0


async def test_two_turns_with_the_same_prefix_load_it_once(world: TieredWorld) -> None:
    world.keep(A[:16], 16)
    await world.offload(A[:16])
    world.evict_all()
    world.copies.clear()

    await asyncio.gather(
        world.tier.load(Prompt(A), all_pages), world.tier.load(Prompt(A[:30]), all_pages)
    )

    assert world.copies == [(Unit.SLOT, 1), (Unit.PAGE, 4)]
    world.check_bytes(A)


async def test_a_load_continues_if_its_turn_is_cancelled(world: TieredWorld) -> None:
    world.keep(A[:16])
    await world.offload(A[:16])
    world.evict_all()
    world.may_copy.clear()
    turn = asyncio.ensure_future(world.tier.load(Prompt(A), all_pages))
    await asyncio.sleep(0.01)
    assert world.pages.counts().working == 4

    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert world.pages.counts().working == 4, "the thread may still write there"
    world.may_copy.set()
    await world.tier.close()

    assert world.pages.counts().working == 0
    world.check_bytes(A)
    assert world.resident(A) == 16


async def test_units_that_are_being_copied_cannot_be_evicted_from_either_tier(
    world: TieredWorld,
) -> None:
    world.keep(A[:16], 16)
    world.may_copy.clear()
    copying = world.tier.offload(world.node(A[:16]))
    await asyncio.sleep(0.01)

    assert not world.cache.make_room(world.pages.total, 0)
    assert world.tier.memory.pages.counts().working == 4
    world.check()
    world.may_copy.set()
    await copying

    assert world.cache.make_room(world.pages.total, 0)


async def test_a_load_is_shortened_to_the_room_on_the_device(world: TieredWorld) -> None:
    world.keep(A[:24], 24)
    await world.offload(A[:24])
    world.evict_all()
    world.pages.take(13, UnitState.WORKING)

    await world.tier.load(Prompt(A), all_pages)
    assert (world.resident(A), world.resume_at(A)) == (12, None)
    await world.tier.load(Prompt(A), up_to_a_state)

    assert world.resident(A) == 12, "useless without its state"
    world.check_bytes(A)


async def test_no_lease_is_revoked_for_memory_that_is_not_needed_yet(world: TieredWorld) -> None:
    for tokens in (A[:16], D[:8]):
        world.keep(tokens)
        await world.offload(tokens)
    world.evict_all()
    world.lease("b", B[:40])
    world.keep(C[:24])

    await world.tier.load(Prompt(A), all_pages, PrefixCache.make_spare_room)
    assert [world.resident(tokens) for tokens in (A, B, C)] == [16, 40, 8]

    for name, tokens in (("a", A[:16]), ("c", C[:8])):
        world.cache.leases.grant(SessionId(name), world.node(tokens), 10.0)
    await world.tier.load(Prompt(D), all_pages, PrefixCache.make_spare_room)
    assert world.leased() == ["b", "a", "c"]
    assert world.resident(D) == 0
    await world.tier.load(Prompt(D), all_pages)
    assert world.resident(D) == 8


async def test_a_full_host_keeps_the_latest_and_the_leased(world: TieredWorld) -> None:
    world.keep(A[:40])
    leased = await world.offload(A[:40])
    assert leased is not None
    world.tier.cache.leases.grant(SessionId("a"), leased, 100.0)
    world.evict_all()
    for tokens in (B[:24], C[:16]):
        world.keep(tokens)
        await world.offload(tokens)
        world.evict_all()

    assert [world.on_the_host(tokens) for tokens in (A, B, C)] == [40, 8, 16]


async def test_a_prefix_longer_than_the_host_tier_is_kept_in_part() -> None:
    world = TieredWorld(host_pages=3)
    world.keep(A[:40])

    last = await world.offload(A[:40])

    assert last is not None
    assert last.num_tokens == 12
    world.check()
    await world.tier.close()


async def test_a_prefix_evicted_before_its_copy_is_not_offloaded(world: TieredWorld) -> None:
    world.keep(A[:8])
    world.keep(B[:8])
    await world.offload(B[:8])
    gone, copied = world.tier.offload(world.node(A[:8])), world.tier.offload(world.node(B[:8]))
    world.evict_all()

    assert await gone is None
    last = await copied
    assert last is not None, "the host had it"
    assert world.on_the_host(A) == 0


async def test_without_a_host_tier_nothing_is_copied() -> None:
    world = TieredWorld(host_pages=0, host_slots=0)
    world.keep(A[:8], 8)

    assert await world.offload(A[:8]) is None
    await world.tier.load(Prompt(A), all_pages)

    assert world.copies == []
    assert not world.tier.is_enabled
    await world.tier.close()


async def test_a_copy_that_fails_gives_everything_back(
    world: TieredWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.keep(A[:16], 16)
    await world.offload(A[:16])
    world.evict_all()

    def fail(unit: Unit, from_units: Sequence[int], to_units: Sequence[int]) -> None:
        raise RuntimeError("no such device")

    world.tier._up = fail
    with pytest.raises(RuntimeError, match="no such device"):
        await world.tier.load(Prompt(A), all_pages)

    assert world.pages.counts().free == world.pages.total
    assert "a copy between the tiers failed" in caplog.text
    world.check()


async def test_the_next_load_is_estimated_from_measured_ones(world: TieredWorld) -> None:
    world.keep(A[:16])
    await world.offload(A[:16])
    for _ in range(70):
        world.evict_all()
        world.may_copy.clear()
        loading = asyncio.ensure_future(world.tier.load(Prompt(A), all_pages))
        await asyncio.sleep(0.001)
        world.now += 8.0
        world.may_copy.set()
        await loading

    assert world.tier.load_s(4, 0) == pytest.approx(8.0, rel=0.05)
    assert world.tier.prefix_load_s(16) > world.tier.load_s(4, 0)


async def test_stray_host_units_are_found(world: TieredWorld) -> None:
    (page,) = world.tier.memory.pages.take(1, UnitState.WORKING)

    with pytest.raises(AccountingError, match="host pages and slots working"):
        world.tier.check_invariants()
    world.tier.memory.pages.give_back([page], UnitState.WORKING)
