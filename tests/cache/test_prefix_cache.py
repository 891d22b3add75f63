from __future__ import annotations

import pytest

from segue.api.cluster.status import UnitCounts
from segue.api.prompt import Prompt
from segue.api.types import PageId
from segue.cache.prefix.tree import PrefixTree
from segue.cache.unit_pool import AccountingError, UnitState
from tests.cache.prefix_world import PAGE_TOKENS, World, prompt

A = prompt(1, 40)
B = prompt(2, 40)


def test_an_empty_cache_matches_nothing_and_can_be_held() -> None:
    world = World()

    match = world.cache.match(Prompt(A))
    hold = world.cache.hold_checkpoint(match)

    assert (match.num_tokens, match.pages, match.checkpoint) == (0, (), None)
    assert (hold.num_tokens, hold.pages) == (0, ())
    world.cache.release(hold)
    world.check()


@pytest.mark.parametrize(
    ("num_tokens", "num_matched"),
    [(0, 0), (1, 0), (4, 0), (5, 4), (8, 4), (9, 8), (12, 8), (13, 12), (40, 12)],
)
def test_the_page_of_the_last_token_is_never_matched(num_tokens: int, num_matched: int) -> None:
    world = World()
    world.keep(A[:12], 4, 8, 12)

    match = world.cache.match(Prompt(A[:num_tokens]))

    assert match.num_tokens == num_matched
    assert len(match.pages) == num_matched // PAGE_TOKENS
    assert (match.checkpoint.num_tokens if match.checkpoint else 0) == num_matched


def test_pages_match_by_their_tokens_and_all_tokens_before() -> None:
    world = World()
    world.keep(A[:12])

    assert world.resident(A[:6] + B[6:12]) == 4
    assert world.resident(B[:4] + A[4:12]) == 0


def test_a_match_resumes_from_the_deepest_checkpoint_on_its_path() -> None:
    world = World()
    world.keep(A[:20], 8)

    hold = world.cache.hold_checkpoint(world.cache.match(Prompt(A)))

    assert world.cache.match(Prompt(A)).num_tokens == 20
    assert hold.num_tokens == 8
    assert len(hold.pages) == 2
    assert hold.checkpoint is not None
    assert world.slots.state_of(hold.checkpoint.slot) is UnitState.CACHED


def test_a_partly_filled_page_stays_with_the_caller() -> None:
    world = World()
    hold = world.cache.hold_pages(world.cache.match(Prompt(A)))
    pages = world.pages.take(5, UnitState.WORKING)

    left = world.cache.insert(Prompt(A[:14]), pages, hold=hold, checkpoints={})

    assert left == pages[3:]
    assert hold.pages == pages[:3]
    assert world.pages.counts() == UnitCounts(total=16, free=11, working=2, cached=3)


def test_the_second_insert_shares_the_first_ones_pages_and_frees_its_own() -> None:
    world = World()
    first = world.cache.hold_pages(world.cache.match(Prompt(A)))
    second = world.cache.hold_pages(world.cache.match(Prompt(A)))
    first_pages = world.insert(first, A[:8], 8)

    second_pages = world.insert(second, A[:13], 8, 12)

    assert second.pages == first_pages + second_pages[2:3]
    assert world.pages.counts() == UnitCounts(total=16, free=13, cached=3)
    assert world.slots.counts() == UnitCounts(total=8, free=6, cached=2)
    world.check()


def test_a_sequence_inserts_only_pages_after_its_hold() -> None:
    world = World()
    world.keep(A[:8])
    hold = world.cache.hold_pages(world.cache.match(Prompt(A)))

    pages = world.insert(hold, A[:16])

    assert len(pages) == 2
    assert world.resident(A) == 16
    assert hold.num_tokens == 16


def test_inserting_less_than_a_page_keeps_the_hold_in_place() -> None:
    world = World()
    world.keep(A[:8])
    hold = world.cache.hold_pages(world.cache.match(Prompt(A)))

    world.insert(hold, A[:10])

    assert hold.num_tokens == 8
    world.cache.release(hold)
    world.check()


def test_a_hold_can_be_extended_by_another_insert() -> None:
    world = World()
    hold = world.run(A[:8], 8)

    world.insert(hold, A[:18], 12)
    world.cache.release(hold)

    assert world.resident(A) == 16
    assert world.resume_at(A) == 12
    world.check()


@pytest.mark.parametrize("end", [0, 10, 16])
def test_a_checkpoint_is_at_the_end_of_a_full_page(end: int) -> None:
    world = World()
    world.keep(A[:4])
    hold = world.cache.hold_pages(world.cache.match(Prompt(A)))

    with pytest.raises(AssertionError, match="no full page ends at"):
        world.insert(hold, A[:14], end)


def test_a_cached_page_may_get_a_checkpoint() -> None:
    world = World()
    world.keep(A[:12])
    hold = world.cache.hold_pages(world.cache.match(Prompt(A)))

    world.insert(hold, A[:12], 4, 12)
    world.cache.release(hold)

    assert [world.resume_at(A[:end]) for end in (4, 8, 12)] == [4, 4, 12]
    assert world.pages.counts().cached == 3
    world.check()


def test_a_page_that_the_caller_does_not_own_is_not_inserted() -> None:
    world = World()
    world.keep(A[:4])
    hold = world.cache.hold_pages(world.cache.match(Prompt(B)))

    with pytest.raises(AccountingError, match="is cached, not working"):
        world.cache.insert(Prompt(B[:4]), [PageId(0)], hold=hold, checkpoints={})

    assert world.resident(B) == 0
    world.check()


def test_a_match_whose_nodes_were_evicted_cannot_be_held() -> None:
    world = World(num_pages=2)
    world.keep(A[:8], 8)
    match = world.cache.match(Prompt(A))
    world.cache.make_room(2, 0)

    with pytest.raises(AssertionError, match="stale"):
        world.cache.hold_pages(match)
    with pytest.raises(AssertionError, match="stale"):
        world.cache.hold_checkpoint(match)


def test_a_hold_is_released_once() -> None:
    world = World()
    hold = world.run(A[:8])
    world.cache.release(hold)

    with pytest.raises(KeyError):
        world.cache.release(hold)


def test_held_pages_stay_and_a_request_that_needs_them_is_refused_without_evicting() -> None:
    world = World(num_pages=6, num_slots=2)
    hold = world.run(A[:16], 16)
    world.keep(B[:8], 4)

    assert not world.cache.make_room(3, 0)
    assert world.resident(B) == 8
    assert world.cache.make_room(2, 0)
    assert world.resident(A) == 16
    world.cache.release(hold)
    assert world.cache.make_room(6, 2)
    world.check()


def test_a_held_checkpoint_stays_with_its_page() -> None:
    world = World(num_pages=3, num_slots=2)
    world.keep(A[:12], 8, 12)
    hold = world.cache.hold_checkpoint(world.cache.match(Prompt(A[:12])))

    assert hold.num_tokens == 8
    assert not world.cache.make_room(0, 2)
    assert not world.cache.make_room(2, 0)
    assert world.cache.make_room(1, 1)
    assert world.resume_at(A) == 8
    world.check()


def test_a_checkpoint_with_two_holds_stays_until_both_are_released() -> None:
    world = World()
    world.keep(A[:8], 8)
    first = world.cache.hold_checkpoint(world.cache.match(Prompt(A)))
    second = world.cache.hold_checkpoint(world.cache.match(Prompt(A)))

    world.cache.release(first)

    world.check()
    assert not world.cache.make_room(0, 8)
    world.cache.release(second)
    assert world.cache.make_room(0, 8)


def test_units_outside_the_cache_cannot_be_evicted() -> None:
    world = World(num_pages=4)
    world.pages.take(3, UnitState.WORKING)
    world.keep(A[:4])

    assert not world.cache.make_room(2, 0)
    assert world.resident(A) == 4
    assert world.cache.make_room(1, 0)


def test_no_more_is_evicted_than_requested() -> None:
    world = World(num_pages=8)
    world.keep(A[:16])
    world.keep(B[:16])

    world.cache.make_room(3, 0)

    assert world.pages.counts().free == 3
    assert (world.cache.num_evicted_pages, world.cache.num_evicted_slots) == (3, 0)


def test_a_tree_that_is_not_paged_is_refused() -> None:
    with pytest.raises(ValueError, match="page_tokens must be >= 1, got 0"):
        PrefixTree(0)
