"""The order of waiting turns, as tables and against a plain model."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.admission.waiting import Place, WaitingTurns, fits


def queue_of(*turns: tuple[str, int]) -> WaitingTurns[str]:
    """Of (tenant, priority), named a0, a1, … by tenant and order."""
    queue: WaitingTurns[str] = WaitingTurns(100, 100)
    seen: Counter[str] = Counter()
    for tenant, priority in turns:
        queue.add(Place(f"{tenant}{seen[tenant]}", tenant, priority, 1))
        seen[tenant] += 1
    return queue


def taken(queue: WaitingTurns[str]) -> str:
    return " ".join(queue.take() for _ in range(len(queue)))


@pytest.mark.parametrize(
    ("turns", "order"),
    [
        ([("a", 0), ("a", 0), ("a", 0)], "a0 a1 a2"),
        ([("a", 0), ("a", 0), ("a", 0), ("b", 0)], "a0 b0 a1 a2"),
        ([("a", 0), ("a", 0), ("b", 0), ("b", 0), ("c", 0)], "a0 b0 c0 a1 b1"),
        ([("a", 0), ("a", -1), ("a", 1)], "a1 a0 a2"),
        # Priority first, whatever the tenant; then the tenants take turns.
        ([("a", 5), ("b", 0), ("b", 0), ("c", 0), ("b", 5)], "b0 c0 b1 a0 b2"),
        ([], ""),
    ],
)
def test_turns_are_taken_by_priority_then_tenant_then_arrival(
    turns: list[tuple[str, int]], order: str
) -> None:
    assert taken(queue_of(*turns)) == order


def test_a_tenant_with_a_hundred_turns_delays_another_by_one() -> None:
    queue: WaitingTurns[str] = WaitingTurns(1000, 1000)
    for number in range(100):
        queue.add(Place(f"big {number}", "big", 0, 1))
    queue.take()

    queue.add(Place("small", "small", 0, 1))

    assert [queue.take() for _ in range(3)] == ["big 1", "small", "big 2"]


@pytest.mark.parametrize(
    ("size", "own", "held", "limit", "expected"),
    [
        (1, 0, 0, 1, True),
        (1, 0, 1, 1, False),
        (1, 0, 0, 0, False),
        # Alone, a tenant gets half.
        (1, 49, 49, 100, True),
        (1, 50, 50, 100, False),
        # Then another one still finds room, and each further one half of the rest.
        (1, 0, 50, 100, True),
        (1, 25, 75, 100, False),
        (60, 0, 0, 50, False),
    ],
)
def test_who_holds_much_gets_no_more_of_little(
    size: int, own: int, held: int, limit: int, expected: bool
) -> None:
    assert fits(size, own=own, held=held, limit=limit) is expected


def test_without_tenants_all_of_the_queue_may_be_used() -> None:
    queue: WaitingTurns[int] = WaitingTurns(3, 10)
    for number in range(3):
        assert queue.has_room("", 1)
        queue.add(Place(number, "", 0, 1))

    assert not queue.has_room("", 1)


def test_bytes_are_bounded_too() -> None:
    queue: WaitingTurns[int] = WaitingTurns(100, 1_000)
    queue.add(Place(0, "", 0, 900))

    assert queue.has_room("", 100)
    assert not queue.has_room("", 101)


class Model:
    """The same with lists: per priority the tenants in turn, each with its turns in order."""

    def __init__(self) -> None:
        self.levels: dict[int, dict[str, list[Place[int]]]] = {}

    def add(self, place: Place[int]) -> None:
        level = self.levels.setdefault(place.priority, {})
        level.setdefault(place.tenant, []).append(place)

    def take(self) -> Place[int]:
        level = self.levels[min(self.levels)]
        tenant = next(iter(level))
        place = level[tenant][0]
        level[tenant] = level.pop(tenant)
        self.remove(place)
        return place

    def remove(self, place: Place[int]) -> None:
        level = self.levels[place.priority]
        level[place.tenant].remove(place)
        if not level[place.tenant]:
            del level[place.tenant]
        if not level:
            del self.levels[place.priority]


@settings(max_examples=60)
@given(st.data())
def test_it_is_the_plain_model(data: st.DataObject) -> None:
    queue: WaitingTurns[int] = WaitingTurns(1_000, 1_000_000)
    model = Model()
    places: list[Place[int]] = []
    for number in range(data.draw(st.integers(1, 60))):
        match data.draw(st.sampled_from(["add", "add", "take", "remove"])):
            case "add":
                tenant, priority = data.draw(st.sampled_from("abc")), data.draw(st.integers(0, 2))
                places.append(Place(number, tenant, priority, number))
                queue.add(places[-1])
                model.add(places[-1])
            case "take" if places:
                place = model.take()
                assert queue.take() == place.turn
                places.remove(place)
                queue.remove(place)  # It was taken: nothing happens.
            case "remove" if places:
                place = places.pop(data.draw(st.integers(0, len(places) - 1)))
                model.remove(place)
                queue.remove(place)
        assert (len(queue), queue.size_bytes) == (len(places), sum(p.size_bytes for p in places))


def test_priorities_that_come_and_go_leave_nothing() -> None:
    queue: WaitingTurns[int] = WaitingTurns(1_000, 1_000)
    queue.add(Place(-1, "", 0, 1))
    for priority in range(1, 1_000):
        place = Place(priority, "", priority, 1)
        queue.add(place)
        queue.remove(place)

    assert len(queue._priorities) < 50
    assert queue.take() == -1
