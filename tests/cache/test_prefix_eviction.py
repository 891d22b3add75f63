from __future__ import annotations

import pytest

from segue.api.prompt import Prompt
from segue.cache.layout import CacheLayout
from segue.cache.prefix.eviction import EvictionQueue
from segue.cache.prefix.eviction_cost import cost_to_prefill
from segue.cache.prefix.node import NEVER
from tests.cache.prefix_world import LAYOUT, TO_DECODE, TO_PREFILL, World, prompt

A, B, C = (prompt(session, 40) for session in (1, 2, 3))


def drain(queue: EvictionQueue[str]) -> list[str]:
    items = []
    while (item := queue.pop()) is not None:
        items.append(item)
    return items


def test_the_least_valuable_is_evicted_first_and_among_equals_the_least_recent() -> None:
    queue = EvictionQueue[str](
        {"costly": 2.0, "old": 1.0, "young": 1.0, "worthless": 0.0}.__getitem__
    )
    uses = {name: queue.use() for name in ("worthless", "costly", "old", "young")}
    for name in ("young", "costly", "worthless", "old"):
        queue.add(name, uses[name])

    assert drain(queue) == ["worthless", "old", "young", "costly"]
    queue.check_invariants()


def test_an_expensive_but_unused_prefix_is_evicted_eventually() -> None:
    queue = EvictionQueue[str](lambda name: 3.0 if name == "costly" else 1.0)
    queue.add("costly", queue.use())
    gone = []
    for i in range(4):
        queue.add(f"cheap {i}", queue.use())
        gone.append(queue.pop())

    assert gone == ["cheap 0", "cheap 1", "costly", "cheap 2"]


def test_worthless_items_are_evicted_before_long_unused_ones() -> None:
    queue = EvictionQueue[str](lambda name: 0.0 if name == "worthless" else 1.0)
    queue.add("old", queue.use())
    queue.add("older", NEVER)
    assert queue.pop() == "older"
    queue.add("worthless", queue.use())

    assert drain(queue) == ["worthless", "old"]


def test_a_value_that_rose_in_the_queue_counts() -> None:
    worths = {"a": 1.0, "b": 2.0}
    queue = EvictionQueue[str](worths.__getitem__)
    for name in worths:
        queue.add(name, queue.use())

    worths["a"] = 3.0

    assert drain(queue) == ["b", "a"]


def test_adding_again_moves_an_item_and_discarding_forgets_it() -> None:
    queue = EvictionQueue[str](lambda name: 2.0 if name == "costly" else 1.0)
    queue.add("costly", queue.use())
    for _ in range(500):
        queue.add("a", queue.use())
        queue.add("b", queue.use())
        queue.discard("b")
        queue.check_invariants()
    queue.add("c", queue.use())
    queue.add("a", queue.use())

    assert len(queue) == 3
    assert len(queue._heap) < 100
    assert drain(queue) == ["c", "a", "costly"]


def test_decode_evicts_the_least_recent_prefix_from_its_end() -> None:
    world = World(worth=TO_DECODE)
    world.keep(A[:12])
    world.keep(B[:12])
    world.cache.release(world.cache.hold_pages(world.cache.match(Prompt(A[:13]))))

    residents = []
    for _ in range(6):
        world.free_one_page()
        residents.append((world.resident(A), world.resident(B)))

    assert residents == [(12, 8), (12, 4), (12, 0), (8, 0), (4, 0), (0, 0)]
    world.check()


def test_releasing_a_hold_counts_as_a_use() -> None:
    world = World(worth=TO_DECODE)
    world.keep(A[:8])
    hold = world.cache.hold_pages(world.cache.match(Prompt(A)))
    world.keep(B[:8])
    world.cache.release(hold)

    world.free_one_page()

    assert (world.resident(A), world.resident(B)) == (8, 4)


def test_a_shared_prefix_is_as_recent_as_the_last_session_that_used_it() -> None:
    world = World(worth=TO_DECODE)
    world.keep(A[:8])
    world.keep(B[:8])
    world.keep(A[:4] + C[:4])

    for _ in range(2):
        world.free_one_page()

    assert world.resident(A[:8]) == 4
    assert world.resident(A[:4] + C[:4]) == 8
    assert world.resident(B[:8]) == 4


def test_prefill_first_evicts_pages_that_no_checkpoint_reaches() -> None:
    world = World(worth=TO_PREFILL)
    world.keep(A[:8], 8)
    world.keep(B[:12], 4)

    for _ in range(2):
        world.free_one_page()

    assert (world.resident(A), world.resident(B)) == (8, 4)
    assert (world.resume_at(A), world.resume_at(B)) == (8, 4)


def test_prefill_counts_all_pages_down_to_the_checkpoint_above() -> None:
    # One second per token: eight tokens per (2 pages and a slot) against twelve per (3 and a slot).
    world = World(worth=TO_PREFILL)
    world.keep(A[:8], 8)
    world.keep(B[:16], 4, 16)

    world.free_one_page()

    assert (world.resident(A), world.resident(B)) == (4, 16)


def test_evicting_a_leaf_evicts_its_checkpoint() -> None:
    world = World(worth=TO_PREFILL)
    world.keep(A[:8], 4, 8)

    world.free_one_page()

    assert world.resume_at(A) == 4
    assert world.slots.counts().free == 7
    assert world.cache.num_evicted_slots == 1
    world.check()


def test_the_checkpoint_that_saves_the_fewest_tokens_is_evicted_and_its_page_stays() -> None:
    world = World(worth=TO_DECODE)
    world.keep(A[:24], 8, 12, 24)

    world.free_one_slot()

    assert world.resume_at(A[:20]) == 8
    assert world.resident(A) == 24


def test_without_a_checkpoint_the_one_below_it_is_more_valuable() -> None:
    # 8, 12 and 16 save 8, 4 and 4 tokens. Without 12, 16 saves 8, and 8 was used before it.
    world = World(worth=TO_DECODE)
    world.keep(A[:16], 8, 12, 16)

    world.free_one_slot()
    world.free_one_slot()

    assert world.resume_at(A) == 16
    assert world.resume_at(A[:12]) is None


def test_a_resumed_checkpoint_outlives_a_more_valuable_unused_one() -> None:
    world = World(worth=TO_DECODE)
    world.keep(A[:8], 8)
    world.keep(B[:8], 8)
    world.keep(C[:16], 16)
    world.free_one_slot()
    world.cache.release(world.cache.hold_checkpoint(world.cache.match(Prompt(B))))

    world.free_one_slot()

    assert [world.resume_at(tokens) for tokens in (A, B, C)] == [None, 8, None]


def test_pages_that_lose_their_checkpoint_are_evicted_next_on_a_prefill_worker() -> None:
    world = World(worth=TO_PREFILL)
    world.keep(A[:8], 8)
    world.keep(B[:8], 8)
    world.cache.release(world.cache.hold_pages(world.cache.match(Prompt(A))))
    world.free_one_slot()
    assert (world.resume_at(A), world.resume_at(B)) == (None, 8)

    for _ in range(2):
        world.free_one_page()

    assert (world.resident(A), world.resident(B)) == (0, 8)
    world.check()


def test_slots_freed_with_pages_count_as_room() -> None:
    world = World(num_pages=4, num_slots=2, worth=TO_PREFILL)
    world.keep(A[:8], 8)
    world.keep(B[:8], 8)

    assert world.cache.make_room(1, 1)

    assert world.slots.counts().free == 1


def test_differences_below_the_error_of_the_estimate_do_not_count() -> None:
    slower = cost_to_prefill(LAYOUT, lambda num_tokens: num_tokens * 1.01)

    assert slower.prefix(400) == TO_PREFILL.prefix(400)


def test_for_prefill_a_page_is_worth_what_its_checkpoint_saves() -> None:
    world = World(worth=TO_PREFILL)
    world.keep(A[:16], 4, 16)
    world.keep(B[:16], 4)
    num_bytes = 3 * LAYOUT.page_bytes + LAYOUT.slot_bytes

    reached, unreached = (world.cache.find(Prompt(tokens[:16])).node for tokens in (A, B))

    assert TO_PREFILL.page(reached) == pytest.approx(12 / num_bytes, rel=0.1)
    assert TO_PREFILL.page(unreached) == 0.0


@pytest.mark.parametrize("num_tokens", [4, 400])
def test_the_value_is_seconds_per_byte(num_tokens: int) -> None:
    layout: CacheLayout = LAYOUT
    num_bytes = num_tokens // 4 * layout.page_bytes + layout.slot_bytes

    assert TO_PREFILL.prefix(num_tokens) == pytest.approx(num_tokens / num_bytes, rel=0.1)
    assert TO_DECODE.prefix(num_tokens) == pytest.approx(1e-9)
