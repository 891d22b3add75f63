"""A lease that its client renews while the session moves lasts as long on the sibling."""

from __future__ import annotations

import contextlib

import pytest

from segue.api.errors import NotFound
from segue.api.types import SessionId, WorkerId
from tests.router.drain.test_desk import World
from tests.workers.siblings import SESSION, Move, Siblings
from tests.workers.two_workers import until, wrongs


async def test_the_router_gives_the_target_what_was_left_at_the_source() -> None:
    world = World()

    def renew() -> None:
        world.links.left_s = 600.0

    world.links.answers |= {"decode-1": renew, "decode-2": renew}
    await world.move(world.session("a"))

    assert world.links.renewed == [(WorkerId(world.place("a")), 600.0)]


async def test_a_source_that_keeps_no_lease_changes_nothing_on_the_target() -> None:
    world = World()
    await world.move(world.session("a"))

    assert world.links.renewed == []
    assert world.place("a") != "decode-0"
    assert SessionId("a") in world.table


async def test_the_workers_count_what_is_left_and_never_shorten_a_lease() -> None:
    with contextlib.ExitStack() as stack:
        workers = Siblings(stack)
        held = await workers.hold_session()
        move = Move(workers, held)
        move.start()
        await until(move.is_over)
        source, target = workers.decode.residency, workers.sibling.residency
        granted_s = target.leases.left_s(SESSION)
        assert granted_s == pytest.approx(held.expires_in_s)

        source.renew(SESSION, granted_s + 100.0)
        left_s = source.end(SESSION)
        assert left_s == pytest.approx(granted_s + 100.0)
        assert source.end(SESSION) == 0.0
        assert target.extend(SESSION, left_s) == pytest.approx(left_s)
        assert target.extend(SESSION, 1.0) == pytest.approx(left_s)
        assert target.leases.left_s(SESSION) == pytest.approx(left_s)
        with pytest.raises(NotFound):
            source.extend(SESSION, 1.0)
        assert wrongs(workers) == []
        await workers.close()
