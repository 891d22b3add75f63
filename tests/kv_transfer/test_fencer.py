from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from kv_transfer.reading.fencer import Fencer
from kv_transfer.reading.reader import HandoffReader
from kv_transfer.ticket import Fence
from segue.api.errors import DeadlineExceeded, SegueError, Unavailable
from segue.api.types import Epoch, WorkerId
from tests.kv_transfer.world import Clock, Node, World


class Writer:
    """Answers fences on command."""

    def __init__(self) -> None:
        self.asked: list[Fence] = []
        self.errors: list[SegueError] = []
        self.is_gone = False
        self.may_answer = asyncio.Event()

    async def stop(self, fence: Fence) -> bool:
        self.asked.append(fence)
        if self.is_gone:
            return False
        if self.errors:
            raise self.errors.pop(0)
        await self.may_answer.wait()
        return True


class Scene:
    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = Clock()
        self.node: Node = world.node("decode-0")
        self.prefill: Node = world.node("prefill-0")
        self.reader: HandoffReader = world.reader(self.node, clock=self.clock)
        self.writer = Writer()
        self.slept: list[float] = []
        self.fencer = Fencer(self.reader, self.writer.stop, sleep=self.sleep)

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        await asyncio.sleep(0)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not holds():
                await asyncio.sleep(0)

    def num_free(self) -> int:
        return self.node.pages.counts().free


@pytest.fixture
async def scene(world: World) -> AsyncIterator[Scene]:
    scene = Scene(world)
    task = asyncio.ensure_future(scene.fencer.run())
    yield scene
    task.cancel()
    await asyncio.wait([task])


async def test_a_given_up_ticket_is_fenced_once_and_freed_by_the_answer(scene: Scene) -> None:
    scene.world.reserve(scene.reader, scene.prefill, turn="turn-a")
    scene.world.give_up("turn-a", "released")
    await scene.until(lambda: len(scene.writer.asked) == 1)
    scene.world.reserve(scene.reader, scene.prefill)
    assert scene.node.pages.counts().quarantined == 4

    scene.writer.may_answer.set()
    await scene.until(lambda: scene.num_free() == 12)

    assert len(scene.writer.asked) == 1
    assert scene.slept == []


async def test_an_expired_ticket_is_fenced_by_itself(world: World) -> None:
    scene = Scene(world)
    world.reserve(scene.reader, scene.prefill)
    scene.clock.now += 31
    task = asyncio.ensure_future(scene.fencer.run())

    scene.writer.may_answer.set()
    await scene.until(lambda: scene.num_free() == 16)

    assert len(scene.writer.asked) == 1
    task.cancel()
    await asyncio.wait([task])


async def test_a_fence_is_retried_with_growing_delays(scene: Scene) -> None:
    scene.writer.may_answer.set()
    scene.writer.errors = [DeadlineExceeded("no answer"), *[Unavailable("refused")] * 7]
    scene.world.reserve(scene.reader, scene.prefill, turn="turn-a")

    scene.world.give_up("turn-a", "released")
    await scene.until(lambda: scene.num_free() == 16)

    assert scene.slept == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


async def test_a_lost_writer_whose_address_refuses_connections_needs_no_answer(
    scene: Scene,
) -> None:
    scene.writer.is_gone = True
    scene.world.reserve(scene.reader, scene.prefill, turn="turn-a")
    scene.reader.members_changed({WorkerId("prefill-1"): Epoch(1)})

    scene.world.give_up("turn-a", "released")
    await scene.until(lambda: scene.num_free() == 16)

    assert len(scene.writer.asked) == 1


async def test_a_lost_writer_that_cannot_be_reached_may_still_write(scene: Scene) -> None:
    """A reset or an unreachable host is no proof that its process has ended."""
    scene.writer.errors = [Unavailable("the connection broke")] * 3
    scene.world.reserve(scene.reader, scene.prefill, turn="turn-a")
    scene.reader.members_changed({WorkerId("prefill-1"): Epoch(1)})

    scene.world.give_up("turn-a", "released")
    await scene.until(lambda: len(scene.writer.asked) == 4)

    assert scene.node.pages.counts().quarantined == 4
    scene.writer.may_answer.set()
    await scene.until(lambda: scene.num_free() == 16)


async def test_retries_end_when_the_writers_death_is_known(scene: Scene) -> None:
    scene.writer.errors = [DeadlineExceeded("no answer")] * 3
    scene.world.reserve(scene.reader, scene.prefill, turn="turn-a")
    scene.world.give_up("turn-a", "released")
    await scene.until(lambda: len(scene.writer.asked) == 1)

    scene.reader.members_changed({WorkerId("prefill-0"): Epoch(2)})
    num_asked = len(scene.writer.asked)
    for _ in range(20):
        await asyncio.sleep(0)

    assert len(scene.writer.asked) <= num_asked + 1
    assert scene.num_free() == 16


async def test_a_bug_in_one_fence_does_not_delay_the_others(scene: Scene) -> None:
    scene.writer.may_answer.set()
    scene.writer.errors = [RuntimeError("a bug")]  # type: ignore[list-item]  # not one of ours
    for turn in ("turn-a", "turn-b"):
        scene.world.reserve(scene.reader, scene.prefill, turn=turn)
        scene.world.give_up(turn, "released")

    await scene.until(lambda: scene.num_free() == 16)

    assert len(scene.writer.asked) == 3
