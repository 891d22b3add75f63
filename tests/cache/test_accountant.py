from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from segue.api.cluster.status import UnitCounts
from segue.api.errors import Overloaded
from segue.api.types import PageId
from segue.cache.unit_pool import (
    AccountingError,
    UnitPool,
    UnitState,
    page_pool,
    slot_pool,
)

FREE, WORKING, CACHED, RESERVED, QUARANTINED = UnitState


def test_units_move_from_free_through_reserved_and_working_back_to_free() -> None:
    pages = page_pool(8)

    ids = pages.take(3, RESERVED)
    pages.move(ids, RESERVED, WORKING)
    pages.give_back(ids[:1], WORKING)

    assert pages.counts() == UnitCounts(total=8, free=6, working=2)
    pages.check_invariants()


def test_taking_more_than_is_free_is_overload_and_changes_nothing() -> None:
    slots = slot_pool(2)
    slots.take(1, WORKING)

    with pytest.raises(Overloaded, match="2 slots wanted, 1 of 2 free"):
        slots.take(2, WORKING)

    assert slots.counts() == UnitCounts(total=2, free=1, working=1)
    assert slots.fits(1)
    assert not slots.fits(2)


def test_taken_units_are_neighbours_if_a_run_is_long_enough() -> None:
    pages = page_pool(10)
    all_ids = pages.take(10, WORKING)
    pages.give_back([all_ids[i] for i in (0, 2, 3, 7, 6, 5)], WORKING)

    assert pages.take(3, WORKING) == (5, 6, 7)


def test_taken_units_are_the_lowest_if_no_run_is_long_enough() -> None:
    pages = page_pool(10)
    all_ids = pages.take(10, WORKING)
    pages.give_back([all_ids[i] for i in (0, 2, 3, 7)], WORKING)

    assert pages.take(3, WORKING) == (0, 2, 3)
    pages.check_invariants()


def test_neighbours_are_found_among_very_many_scattered_units() -> None:
    pages = page_pool(20_000)
    all_ids = pages.take(20_000, WORKING)
    pages.give_back(all_ids[::2], WORKING)
    pages.give_back(all_ids[15_001:15_201:2], WORKING)

    assert pages.take(201, WORKING) == all_ids[15_000:15_201]
    assert pages.take(3, WORKING) == (0, 2, 4)
    pages.check_invariants()


def test_an_empty_pool_takes_nothing() -> None:
    pages = page_pool(0)

    assert pages.take(0, WORKING) == ()
    assert not pages.fits(1)
    pages.check_invariants()


@pytest.mark.parametrize(
    ("from_state", "to_state"),
    [
        (WORKING, RESERVED),
        (CACHED, QUARANTINED),
        (WORKING, QUARANTINED),
        (QUARANTINED, WORKING),
        (QUARANTINED, RESERVED),
        (FREE, WORKING),
        (RESERVED, FREE),
    ],
)
def test_a_transition_from_a_wrong_state_raises(from_state: UnitState, to_state: UnitState) -> None:
    pages = page_pool(4)
    ids = pages.take(2, RESERVED)
    before = pages.counts()

    with pytest.raises(AccountingError):
        pages.move(ids, from_state, to_state)

    assert pages.counts() == before
    pages.check_invariants()


def test_giving_back_twice_raises() -> None:
    pages = page_pool(4)
    ids = pages.take(2, WORKING)
    pages.give_back(ids, WORKING)

    with pytest.raises(AccountingError, match="page 0 is free, not working"):
        pages.give_back(ids, WORKING)


def test_a_duplicate_or_unknown_unit_raises() -> None:
    pages = page_pool(4)
    (page,) = pages.take(1, WORKING)

    with pytest.raises(AccountingError, match="twice"):
        pages.give_back([page, page], WORKING)
    with pytest.raises(AccountingError, match="not one of 4"):
        pages.give_back([PageId(4)], WORKING)


class AccountantMachine(RuleBasedStateMachine):
    """Random legal steps; a dictionary holds the expected state."""

    NUM_PAGES = 12
    STEPS = ((RESERVED, WORKING), (RESERVED, QUARANTINED), (WORKING, CACHED), (CACHED, WORKING))

    def __init__(self) -> None:
        super().__init__()
        self.pages: UnitPool[PageId] = page_pool(self.NUM_PAGES)
        self.expected = {PageId(i): FREE for i in range(self.NUM_PAGES)}

    def in_state(self, state: UnitState) -> list[PageId]:
        return [page for page, is_in in self.expected.items() if is_in is state]

    @rule(num=st.integers(0, NUM_PAGES), state=st.sampled_from([WORKING, CACHED, RESERVED]))
    def take(self, num: int, state: UnitState) -> None:
        assert self.pages.fits(num) == (num <= len(self.in_state(FREE)))
        if self.pages.fits(num):
            ids = self.pages.take(num, state)
            assert len(set(ids)) == num
            assert set(ids) <= set(self.in_state(FREE))
            self.expected.update(dict.fromkeys(ids, state))

    @rule(step=st.sampled_from(STEPS), num=st.integers(0, NUM_PAGES))
    def move(self, step: tuple[UnitState, UnitState], num: int) -> None:
        ids = self.in_state(step[0])[:num]
        self.pages.move(ids, *step)
        self.expected.update(dict.fromkeys(ids, step[1]))

    @precondition(lambda self: len(self.in_state(FREE)) < self.NUM_PAGES)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        taken = [page for page, state in self.expected.items() if state is not FREE]
        page = data.draw(st.sampled_from(taken))
        self.pages.give_back([page], self.expected[page])
        self.expected[page] = FREE

    @invariant()
    def every_unit_is_where_it_should_be(self) -> None:
        self.pages.check_invariants()
        assert {page: self.pages.state_of(page) for page in self.expected} == self.expected


TestAnySequenceOfSteps = AccountantMachine.TestCase
TestAnySequenceOfSteps.settings = settings(max_examples=60, stateful_step_count=25)
