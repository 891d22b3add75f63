from __future__ import annotations

import pytest

from segue.api.errors import NotFound
from segue.api.prompt import Prompt
from segue.api.types import SessionId
from tests.cache.prefix_world import TO_DECODE, TO_PREFILL, World, prompt

A, B, C = (prompt(session, 40) for session in (1, 2, 3))
a, b, c = SessionId("a"), SessionId("b"), SessionId("c")


def test_ordinary_prefixes_are_evicted_before_older_leased_ones() -> None:
    world = World()
    world.lease("a", A[:8], 8)
    world.keep(B[:8], 8)

    for _ in range(2):
        world.free_one_page()

    assert (world.resident(A), world.resident(B)) == (8, 0)
    assert world.leased() == ["a"]
    world.check()


def test_the_lease_of_the_least_recent_turn_is_revoked_first() -> None:
    world = World()
    world.lease("a", A[:8], until=100.0)
    world.lease("b", B[:8])
    world.cache.leases.renew(a, 200.0)

    world.free_one_page()

    assert world.leased() == ["b"]
    assert (world.resident(A), world.resident(B)) == (4, 8)
    assert world.cache.leases.num_revoked == 1
    world.check()


def test_the_less_valuable_lease_is_revoked_first() -> None:
    # Computing four tokens saves little per page and slot; with forty the slot is more valuable.
    world = World(worth=TO_PREFILL)
    world.lease("a", A[:40], 40)
    world.lease("b", B[:4], 4)

    world.free_one_page()

    assert world.leased() == ["a"]


def test_revoking_stops_once_there_is_room() -> None:
    world = World(num_pages=6)
    for session, tokens in (("a", A), ("b", B), ("c", C)):
        world.lease(session, tokens[:8])

    assert world.cache.make_room(3, 0)

    assert world.leased() == ["c"]
    assert (world.resident(A), world.resident(B), world.resident(C)) == (0, 4, 8)


def test_a_lease_with_held_pages_is_not_revoked_without_gain() -> None:
    world = World()
    world.lease("a", A[:8])
    world.lease("b", B[:8])
    hold = world.cache.hold_pages(world.cache.match(Prompt(A)))

    world.free_one_page()

    assert world.leased() == ["a"]
    world.cache.release(hold)
    world.check()


def test_a_lease_keeps_only_the_deepest_checkpoint() -> None:
    world = World()
    world.lease("a", A[:16], 4, 8)
    world.keep(B[:12], 12)

    for _ in range(2):
        world.free_one_slot()

    assert (world.resume_at(A), world.resume_at(A[:4])) == (8, None)
    assert world.resume_at(B) is None


def test_if_slots_are_short_a_lease_gives_up_its_checkpoint_and_keeps_its_pages() -> None:
    world = World(num_slots=2)
    world.lease("a", A[:8], 8)
    world.lease("b", B[:8], 8)

    assert world.cache.make_room(0, 1)

    assert world.leased() == ["a", "b"]
    assert (world.resident(A), world.resume_at(A), world.resume_at(B)) == (8, None, 8)
    world.check()
    assert world.cache.leases.end(a)
    world.check()


def test_a_lease_with_a_held_checkpoint_does_not_give_it_up_without_gain() -> None:
    world = World(num_slots=2)
    world.lease("a", A[:8], 8)
    world.lease("b", B[:8], 8)
    hold = world.cache.hold_checkpoint(world.cache.match(Prompt(A)))

    assert world.cache.make_room(0, 1)

    lease = world.cache.leases.get(a)
    assert lease is not None
    assert lease.checkpoint is hold.checkpoint
    assert world.resume_at(B) is None
    world.cache.release(hold)
    world.check()


def test_if_no_room_can_be_made_no_lease_is_revoked() -> None:
    world = World(num_pages=4)
    world.lease("a", A[:8])
    hold = world.run(B[:8])

    assert not world.cache.make_room(3, 0)

    assert world.leased() == ["a"]
    assert world.resident(A) == 8
    world.cache.release(hold)


def test_an_expired_lease_is_ordinary() -> None:
    world = World()
    world.lease("a", A[:8], until=5.0)
    world.lease("b", B[:8], until=9.0)
    world.now = 5.0

    world.free_one_page()

    assert world.leased() == ["b"]
    assert world.cache.leases.num_revoked == 0
    assert world.resident(A) == 4


def test_the_rest_of_a_prefix_is_as_recent_as_its_evicted_end() -> None:
    world = World()
    world.lease("a", A[:8])
    world.keep(B[:8])
    world.free_one_page()
    assert (world.resident(A), world.resident(B)) == (8, 4)

    world.cache.leases.end(a)
    world.free_one_page()

    assert (world.resident(A), world.resident(B)) == (4, 4)


def test_a_renewed_lease_lives_longer() -> None:
    world = World()
    world.lease("a", A[:8], until=5.0)

    world.cache.leases.renew(a, 20.0)
    world.now = 10.0

    lease = world.cache.leases.get(a)
    assert lease is not None
    assert (lease.session_id, lease.num_tokens, lease.expires_at) == ("a", 8, 20.0)


def test_the_next_turn_moves_the_lease() -> None:
    world = World()
    world.lease("a", A[:8], 8)

    world.lease("a", A[:16], 16, until=20.0)

    lease = world.cache.leases.get(a)
    assert lease is not None
    assert (lease.num_tokens, lease.expires_at) == (16, 20.0)
    world.check()


def test_a_fork_keeps_the_shared_prefix_when_its_parent_is_released() -> None:
    world = World()
    world.lease("a", A[:8], 8)

    world.cache.leases.fork(a, b)
    world.lease("b", A[:8] + B[:8], 16)
    assert world.cache.leases.end(a)
    world.keep(C[:8], 8)
    for _ in range(2):
        world.free_one_page()

    assert world.leased() == ["b"]
    assert world.resident(A[:8] + B[:8]) == 16
    world.check()


def test_a_prefix_with_two_leases_stays_until_both_are_revoked() -> None:
    world = World()
    world.lease("a", A[:8], 8)
    world.cache.leases.fork(a, b)

    world.free_one_page()

    assert world.leased() == []
    assert world.resident(A) == 4
    world.check()


@pytest.mark.parametrize("how", ["never", "ended", "expired", "revoked"])
def test_a_lease_that_is_gone_can_neither_be_renewed_nor_forked(how: str) -> None:
    world = World(worth=TO_DECODE)
    if how != "never":
        world.lease("a", A[:8], until=5.0)
    match how:
        case "ended":
            assert world.cache.leases.end(a)
        case "expired":
            world.now = 6.0
        case "revoked":
            world.free_one_page()

    with pytest.raises(NotFound, match="session a has no lease here"):
        world.cache.leases.renew(a, 20.0)
    with pytest.raises(NotFound, match="session a has no lease here"):
        world.cache.leases.fork(a, c)
    assert not world.cache.leases.end(a)


def test_a_demoted_prefix_is_evicted_first_except_for_shared_pages() -> None:
    world = World(worth=TO_DECODE)
    world.keep(B[:12])
    world.keep(A[:8] + B[:8])
    world.keep(A[:16], 16)
    node = world.cache.find(Prompt(A[:16])).node

    world.cache.pins.demote(node)
    world.free_one_slot()
    assert world.resume_at(A[:16]) is None
    for _ in range(2):
        world.free_one_page()

    assert [world.resident(tokens) for tokens in (A[:16], B, A[:8] + B[:8])] == [8, 12, 16]
    world.check()


def test_a_prefix_with_holds_or_leases_below_is_not_demoted() -> None:
    world = World(worth=TO_DECODE)
    world.keep(A[:16])
    world.lease("b", A[:24])
    world.keep(B[:8])

    world.cache.pins.demote(world.cache.find(Prompt(A[:16])).node)
    for _ in range(2):
        world.free_one_page()

    assert (world.resident(A), world.resident(B)) == (24, 0)
