"""Every unit in use has an owner by name, and a unit whose owner is gone is found."""

from __future__ import annotations

import pytest

from segue.api.cluster.status import UnitCounts
from segue.api.errors import Overloaded
from segue.cache.memory import Memory
from segue.cache.unit_pool import NO_OWNER, AccountingError, UnitState, UntilKept, page_pool
from tests.cache.prefix_world import PAGE_TOKENS, TO_DECODE, World, prompt

WORKING, RESERVED, CACHED = UnitState.WORKING, UnitState.RESERVED, UnitState.CACHED


@pytest.fixture
def memory() -> Memory:
    return Memory.of(
        num_pages=16, num_slots=8, page_tokens=PAGE_TOKENS, worth=TO_DECODE, clock=lambda: 0.0
    )


def test_units_have_an_owner_until_they_are_given_back() -> None:
    pages = page_pool(8)
    mine = pages.take(3, RESERVED, owner="mine")
    theirs = pages.take(2, WORKING, owner="theirs")
    pages.move(mine[:2], RESERVED, WORKING)

    assert pages.owners() == {"mine": 3, "theirs": 2}
    assert pages.owned_by("mine", WORKING) == mine[:2]
    assert pages.owned_by("mine", RESERVED) == mine[2:]

    pages.move(mine[2:], RESERVED, UnitState.QUARANTINED)
    pages.give_back(mine[2:], UnitState.QUARANTINED)
    pages.give_back(mine[:2], WORKING)
    pages.move(theirs, WORKING, CACHED)

    assert pages.owners() == {}
    pages.check_invariants()


def test_units_in_the_tree_have_no_other_owner() -> None:
    world = World()
    world.keep(prompt(1, 3 * PAGE_TOKENS), PAGE_TOKENS)

    assert world.pages.owners() == world.slots.owners() == {}
    world.check()


def test_a_unit_that_leaves_the_tree_unexpectedly_has_no_owner() -> None:
    pages = page_pool(2)
    (page,) = pages.take(1, CACHED)
    pages.move([page], CACHED, WORKING)

    assert pages.owners() == {NO_OWNER: 1}
    pages.check_invariants()


def test_a_leak_names_the_owner_and_its_units(memory: Memory) -> None:
    memory.pages.take(5, WORKING, owner="turn-x")
    memory.slots.take(3, WORKING, owner="turn-x")
    memory.pages.take(2, WORKING, owner="turn-y")
    memory.slots.take(1, WORKING)

    strays = memory.strays({"turn-y"})

    assert "5 pages and 3 slots are owned by turn-x, now gone" in str(strays)
    assert "0 pages and 1 slots are owned by an unknown owner" in str(strays)
    assert memory.counts({"turn-y"}) == (
        UnitCounts(total=16, free=9, working=7, stray=5),
        UnitCounts(total=8, free=4, working=4, stray=4),
    )
    with pytest.raises(AccountingError, match="owned by turn-x"):
        strays.require_none()
    memory.strays({"turn-x", "turn-y", NO_OWNER}).require_none()


def test_all_working_units_of_an_owner_can_be_reclaimed(memory: Memory) -> None:
    memory.pages.take(5, WORKING, owner="turn-x")
    memory.slots.take(3, WORKING, owner="turn-x")
    memory.pages.take(1, RESERVED, owner="turn-x")
    memory.pages.take(2, WORKING, owner="turn-y")

    memory.reclaim("turn-x")

    assert memory.pages.owners() == {"turn-x": 1, "turn-y": 2}, "units that others may write stay"
    assert memory.slots.owners() == {}
    memory.check_invariants()


@pytest.mark.parametrize("error", [Overloaded("full"), RuntimeError("a bug"), KeyboardInterrupt()])
def test_units_that_are_not_kept_are_given_back_whatever_was_raised(
    memory: Memory, error: BaseException
) -> None:
    def take() -> None:
        with UntilKept() as taken:
            pages = memory.pages.take(5, WORKING, owner="turn")
            taken.callback(memory.pages.give_back, pages, WORKING)
            slots = memory.slots.take(2, WORKING, owner="turn")
            taken.callback(memory.slots.give_back, slots, WORKING)
            raise error

    with pytest.raises(type(error)):
        take()

    assert memory.pages.owners() == memory.slots.owners() == {}


def test_units_that_are_kept_stay(memory: Memory) -> None:
    with UntilKept() as taken:
        pages = memory.pages.take(5, WORKING, owner="turn")
        taken.callback(memory.pages.give_back, pages, WORKING)
        taken.keep()

    assert memory.pages.owners() == {"turn": 5}
