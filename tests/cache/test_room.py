from __future__ import annotations

import asyncio

import pytest

from segue.api.errors import Overloaded
from segue.cache.admission_queue import AdmissionQueue


class Shelf:
    """A shelf with a fixed number of units; taking more than are left raises Overloaded."""

    def __init__(self, units: int) -> None:
        self.units = units

    def take(self, wanted: int) -> int:
        if wanted > self.units:
            raise Overloaded("not enough")
        self.units -= wanted
        return wanted


async def test_turns_are_admitted_in_order_even_if_later_ones_would_fit() -> None:
    shelf, room, served = Shelf(1), AdmissionQueue(10), []

    async def visit(name: str, wanted: int) -> None:
        await room.take(lambda: shelf.take(wanted))
        served.append(name)

    async with asyncio.TaskGroup() as tasks:
        for name, wanted in (("large", 3), ("small", 1)):
            tasks.create_task(visit(name, wanted))
            await asyncio.sleep(0)
        assert served == []
        assert len(room) == 2

        shelf.units = 4
        room.wake()

    assert served == ["large", "small"]


async def test_a_turn_that_leaves_the_queue_lets_the_next_one_in() -> None:
    shelf, room = Shelf(1), AdmissionQueue(10)
    first = asyncio.ensure_future(room.take(lambda: shelf.take(2)))
    second = asyncio.ensure_future(room.take(lambda: shelf.take(1)))
    await asyncio.sleep(0)

    first.cancel()

    assert await second == 1
    assert len(room) == 0


async def test_a_full_room_refuses_at_once() -> None:
    shelf, room = Shelf(0), AdmissionQueue(1)
    waiting = asyncio.ensure_future(room.take(lambda: shelf.take(1)))
    await asyncio.sleep(0)

    with pytest.raises(Overloaded, match="1 turns already wait for memory here"):
        await room.take(lambda: shelf.take(1))

    shelf.units = 1
    room.wake()
    assert await waiting == 1


async def test_prepared_memory_is_taken_before_other_turns_can_take_it() -> None:
    shelf, room, order = Shelf(2), AdmissionQueue(10), []

    async def prepare(name: str) -> None:
        await asyncio.sleep(0)
        order.append(f"{name} prepared")

    def take(name: str, wanted: int) -> int:
        order.append(f"{name} tries")
        return shelf.take(wanted)

    async with asyncio.TaskGroup() as tasks:
        for name, wanted in (("a", 3), ("b", 1)):
            tasks.create_task(
                room.take(
                    lambda name=name, wanted=wanted: take(name, wanted),  # type: ignore[misc]
                    lambda name=name: prepare(name),  # type: ignore[misc]
                )
            )
        await asyncio.sleep(0.01)
        shelf.units += 3
        room.wake()

    assert order == [
        *("a prepared", "a tries", "b prepared"),
        *("a prepared", "a tries", "b prepared", "b tries"),
    ]
