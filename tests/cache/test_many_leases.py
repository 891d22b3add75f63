"""The cost of a lease does not depend on the number of sessions, and the order is the same."""

from __future__ import annotations

import random

import pytest

from segue.api.prompt import Prompt
from segue.api.types import SessionId
from tests.cache.prefix_world import PAGE_TOKENS, World, prompt
from tests.executed import lines_executed


def busy(num_sessions: int) -> World:
    """A page and a state with a lease for each session, and no free units."""
    world = World(num_pages=num_sessions, num_slots=num_sessions)
    for session in range(num_sessions):
        world.lease(str(session), prompt(session, PAGE_TOKENS), PAGE_TOKENS, until=100.0)
    return world


@pytest.mark.parametrize("what", ["get", "renew", "end", "grant", "revoke page", "revoke slot"])
def test_a_lease_costs_the_same_among_many_sessions(what: str) -> None:
    def cost(num_sessions: int) -> int:
        world = busy(num_sessions)
        leases, session = world.cache.leases, SessionId(str(num_sessions - 1))
        lease = leases.get(session)
        assert lease is not None
        calls = {
            "get": lambda: leases.get(session),
            "renew": lambda: leases.renew(session, 200.0),
            "end": lambda: leases.end(session),
            "grant": lambda: leases.grant(session, lease.node, 200.0),
            "revoke page": leases.revoke_for_page,
            "revoke slot": leases.revoke_for_slot,
        }
        return lines_executed(calls[what])

    few, many = cost(30), cost(1000)

    assert many <= few + 5, (few, many)


def test_leases_that_cannot_be_revoked_are_examined_once() -> None:
    world = busy(300)
    leases = world.cache.leases
    held = [
        world.cache.hold_pages(world.cache.find(Prompt(prompt(s, PAGE_TOKENS)))) for s in range(299)
    ]

    first = lines_executed(leases.revoke_for_page)
    assert world.leased() == [str(s) for s in range(299)]
    assert not leases.revoke_for_page()
    assert lines_executed(leases.revoke_for_page) < first / 10

    # As soon as one may be revoked again, it is found; the oldest first.
    world.cache.release(held[7])
    world.cache.release(held[3])
    assert leases.revoke_for_page()
    assert "3" not in world.leased()
    assert leases.revoke_for_page()
    assert "7" not in world.leased()
    assert not leases.revoke_for_page()
    for hold in (*held[:3], *held[4:7], *held[8:]):
        world.cache.release(hold)
    world.check()


def test_a_lease_whose_prefix_others_extended_is_found_again_when_they_are_gone() -> None:
    world = World()
    world.lease("parent", prompt(1, PAGE_TOKENS), PAGE_TOKENS)
    world.lease("child", prompt(1, 2 * PAGE_TOKENS), 2 * PAGE_TOKENS)
    leases = world.cache.leases

    assert leases.revoke_for_page()
    assert world.leased() == ["parent"]
    assert not leases.revoke_for_page(), "the child's page is still below"
    world.free_one_page()
    assert leases.revoke_for_page()

    assert world.leased() == []
    world.check()


def test_leases_expire_at_their_last_renewal() -> None:
    world = busy(50)
    draw = random.Random(5)
    expected: dict[str, float] = {}
    for _ in range(1000):
        session, until = str(draw.randrange(50)), float(draw.randrange(10, 90))
        world.cache.leases.renew(SessionId(session), until)
        expected[session] = until

    for now in (20.0, 50.0, 80.0):
        world.now = now
        live = {session for session, until in expected.items() if until > now}
        assert set(world.cache.leases.sessions()) & set(expected) == live
    assert len(world.cache.leases._expiries) <= 2 * 50 + 64 + 1
    world.check()
