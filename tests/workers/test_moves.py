"""A session moves from one decode worker to another, with faults between any two of its steps.

Whatever happens, the session's next turn is answered right, on the one that has adopted it or not,
pages and slots add up, and only the source's own lease is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from kv_transfer.ticket import PeerIdentity
from segue.api.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    TransferFailed,
    Unavailable,
)
from segue.api.prompt import PrefixName
from segue.api.types import Epoch, SessionId
from tests.workers.siblings import (
    SECOND,
    SESSION,
    SIBLING,
    THIRD,
    LocalTurn,
    Move,
    Siblings,
)
from tests.workers.two_workers import DECODE, until, wrongs
from tests.workers.wires import Fault


@pytest.fixture
async def workers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Siblings]:
    """Runs where every exception must be handled, and in a process that must not exit."""
    exits: list[int] = []
    unhandled: list[object] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr("kv_transfer.reading.fencer.FIRST_RETRY_S", 0.001)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    with contextlib.ExitStack() as stack:
        workers = Siblings(stack)
        yield workers
        workers.let_go()
        await workers.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert (exits, unhandled) == ([], [])


class Scene:
    """One move, and what happens to it."""

    def __init__(self, workers: Siblings, move: Move) -> None:
        self.workers = workers
        self.move = move
        self.turns: list[asyncio.Task[LocalTurn]] = []
        self.background: list[asyncio.Task[None]] = []
        self.source_died = False

    async def end(self) -> None:
        """The workers continue, cut connections are restored, late messages arrive."""
        workers = self.workers
        workers.let_go()
        await until(lambda: self.move.pulling.is_over)
        if self.source_died:
            workers.see_members(DECODE)
            await until(lambda: not workers.sibling._exchange.reader.owners())
        workers.mend()
        await until(self.move.is_over)
        await workers.wires.deliver_late()
        await asyncio.gather(*self.background)
        for turn in await asyncio.gather(*self.turns):
            assert turn.is_right() or turn.errors
        await until(self.move.is_over)
        workers.wires.faults.clear()

    async def wrongs(self) -> list[str]:
        """Runs the session's next turn on the sibling."""
        adopted = self.move.adopted is not None
        has_lease = self.workers.sibling._memory.cache.leases.get(SESSION) is not None
        found = wrongs(self.workers)
        if adopted != has_lease and not self.turns:
            found.append(f"adopted: {adopted}, leased: {has_lease}")
        turn = await LocalTurn(self.workers.sibling, "next", THIRD).run()
        if not turn.is_right():
            found.append(f"the next turn is answered wrongly: {turn.errors}")
        # Prompt and answer up to the last whole page are here.
        if adopted and turn.num_computed != len(THIRD) - self.move.held.prefixes[-1].num_tokens:
            found.append(f"the next turn computes {turn.num_computed} tokens")
        return [*found, *wrongs(self.workers)]


def do_nothing(scene: Scene) -> None:
    pass


def cancel(scene: Scene) -> None:
    """The router's call ends: its deadline has passed, or the router died."""
    scene.move.pulling.cancel()


def expire(scene: Scene) -> None:
    """All tickets and leases at once."""
    scene.workers.clock.now += 3600
    for exchange in scene.workers.wires.exchanges.values():
        exchange.reader.expire_due()


def cut_source_off(scene: Scene) -> None:
    scene.workers.cut_off(DECODE)


def cut_sibling_off(scene: Scene) -> None:
    scene.workers.cut_off(SIBLING)


def kill_source(scene: Scene) -> None:
    """Ends its process; the router knows, and gives up."""
    scene.workers.wires.cut_off.add(DECODE)
    scene.workers.wires.dead.add(DECODE)
    scene.source_died = True


def evict_source(scene: Scene) -> None:
    memory = scene.workers.decode._memory
    memory.cache.make_room(memory.cache.num_obtainable_pages, memory.cache.num_obtainable_slots)


def evict_sibling(scene: Scene) -> None:
    """Others need all the memory that is not held."""
    memory = scene.workers.sibling._memory
    memory.cache.make_room(memory.cache.num_obtainable_pages, memory.cache.num_obtainable_slots)


def release(scene: Scene) -> None:
    """The session's client does not come back."""
    scene.workers.decode.residency.end(SESSION)


def start_turn(scene: Scene) -> None:
    """The session's next turn is placed on the sibling."""
    turn = LocalTurn(scene.workers.sibling, "during", THIRD)
    scene.turns.append(asyncio.ensure_future(turn.run()))


def drain_sibling(scene: Scene) -> None:
    stopping = scene.workers.sibling._adoptions.stop(Unavailable("drains"))
    scene.background.append(asyncio.ensure_future(stopping))


INTRUDERS = [
    do_nothing,
    cancel,
    expire,
    cut_source_off,
    cut_sibling_off,
    kill_source,
    evict_source,
    evict_sibling,
    release,
    start_turn,
    drain_sibling,
]
HARMLESS = [do_nothing, release, start_turn, evict_sibling]

Intruder = Callable[[Scene], None]


async def prepared(workers: Siblings) -> Scene:
    return Scene(workers, Move(workers, await workers.hold_session()))


async def test_a_session_moves_with_all_its_states(workers: Siblings) -> None:
    scene = await prepared(workers)
    held = scene.move.held
    assert len(held.prefixes) >= 2
    scene.move.start()
    await scene.end()

    adopted = scene.move.adopted
    assert adopted is not None
    assert adopted.kept_states == tuple(prefix.num_tokens for prefix in held.prefixes)
    assert adopted.kept_tokens == held.prefixes[-1].num_tokens
    assert adopted.moved_bytes > 0
    (arrived,) = workers.held(workers.sibling)
    assert arrived == held
    assert await scene.wrongs() == []


async def test_resident_prefixes_are_not_moved_again(workers: Siblings) -> None:
    scene = await prepared(workers)
    scene.move.start()
    await scene.end()
    again = Move(workers, scene.move.held)
    again.start()
    await until(again.is_over)

    assert again.adopted is not None
    assert again.adopted.moved_bytes == 0
    assert wrongs(workers) == []


@pytest.mark.parametrize("intruder", INTRUDERS, ids=lambda step: step.__name__)
async def test_a_fault_at_every_await_of_a_move_leaves_nothing(
    workers: Siblings, intruder: Intruder
) -> None:
    for number in itertools.count(1):
        scene = await prepared(workers)
        scene.move.pulling.intrude_at(number, functools.partial(intruder, scene))
        scene.move.start()
        await scene.end()

        if intruder in HARMLESS:
            assert scene.move.adopted is not None, (number, scene.move.errors)
        assert await scene.wrongs() == [], number
        if not scene.move.pulling.has_intruded:
            break
    assert number > 5


@pytest.mark.parametrize(
    ("method", "fault"),
    [*itertools.product(["read_prefix", "pull", "meet", "commit"], Fault), ("abort", Fault.LOST)],
)
async def test_a_failing_call_leaves_nothing_behind(
    workers: Siblings, method: str, fault: Fault
) -> None:
    for intruder in (do_nothing, cancel, start_turn):
        scene = await prepared(workers)
        workers.wires.faults[method] = fault
        scene.move.pulling.intrude_at(4, functools.partial(intruder, scene))
        scene.move.start()
        await scene.end()

        assert await scene.wrongs() == [], intruder.__name__


@pytest.mark.parametrize("intruder", [cancel, expire, drain_sibling])
async def test_units_that_the_source_may_still_write_are_in_quarantine(
    workers: Siblings, intruder: Intruder
) -> None:
    scene = await prepared(workers)
    workers.network.hold()
    scene.move.start()
    assert await asyncio.to_thread(workers.network.wait_until_held, 5.0)

    intruder(scene)
    await until(lambda: workers.sibling._memory.slots.counts().quarantined == 1)
    assert workers.sibling._memory.pages.counts().quarantined > 0
    await scene.end()
    assert await scene.wrongs() == []


async def test_a_move_revokes_no_lease_of_the_sibling(workers: Siblings) -> None:
    scene = await prepared(workers)
    sibling = workers.sibling
    for number in range(3):
        prompt = tuple(range(100 + 30 * number, 125 + 30 * number))
        own = LocalTurn(sibling, f"own-{number}", prompt)
        own.turn = replace(own.turn, session_id=SessionId(f"own-{number}"))
        assert (await own.run()).is_right()
    leases = sibling._memory.cache.leases
    before = {lease.session_id: lease.num_tokens for lease in leases.all()}
    assert len(before) == 3
    scene.move.start()
    await scene.end()

    assert isinstance(scene.move.errors[0], Overloaded)
    assert {lease.session_id: lease.num_tokens for lease in leases.all()} == before
    assert leases.num_revoked == 0
    assert wrongs(workers) == []


async def test_a_move_evicts_memory_that_no_session_leases(workers: Siblings) -> None:
    scene = await prepared(workers)
    sibling = workers.sibling
    for number in range(3):
        prompt = tuple(range(100 + 30 * number, 125 + 30 * number))
        turn = await LocalTurn(sibling, f"old-{number}", prompt).run()
        assert turn.is_right()
    sibling.residency.end(SESSION)
    scene.move.start()
    await scene.end()

    assert scene.move.adopted is not None
    assert await scene.wrongs() == []


async def test_a_newer_lease_on_the_sibling_stays(workers: Siblings) -> None:
    """The session had its next turn there during the move: that one reaches further."""
    scene = await prepared(workers)
    workers.network.hold()
    scene.move.start()
    assert await asyncio.to_thread(workers.network.wait_until_held, 5.0)
    turn = await LocalTurn(workers.sibling, "during", THIRD).run()
    lease = workers.sibling._memory.cache.leases.get(SESSION)
    assert lease is not None
    await scene.end()

    assert turn.is_right()
    assert scene.move.adopted is not None
    assert workers.sibling._memory.cache.leases.get(SESSION) is lease
    assert lease.num_tokens > scene.move.held.prefixes[-1].num_tokens
    assert wrongs(workers) == []


async def test_a_lease_that_reaches_further_stays(workers: Siblings) -> None:
    """A router that has missed the session's last turn asks for what is older."""
    scene = await prepared(workers)
    turn = await LocalTurn(workers.sibling, "before", THIRD).run()
    lease = workers.sibling._memory.cache.leases.get(SESSION)
    scene.move.start()
    await scene.end()

    assert turn.is_right()
    assert scene.move.adopted is not None
    assert lease is not None
    assert workers.sibling._memory.cache.leases.get(SESSION) is lease
    assert wrongs(workers) == []


async def test_a_move_that_takes_too_long_is_given_up(workers: Siblings) -> None:
    scene = await prepared(workers)
    workers.network.hold()
    with pytest.raises(DeadlineExceeded, match=r"did not arrive within 0\.05 s from decode-0"):
        await workers.sibling.adopt(scene.move.held, workers.source(), timeout_s=0.05)
    await scene.end()
    assert await scene.wrongs() == []


async def test_a_session_whose_states_are_gone_is_not_moved(workers: Siblings) -> None:
    scene = await prepared(workers)
    evict_source(scene)
    scene.move.start()
    await scene.end()

    assert [type(error) for error in scene.move.errors] == [NotFound]
    assert await scene.wrongs() == []


async def test_a_source_that_sends_another_prefix_is_refused(
    workers: Siblings, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await prepared(workers)

    async def forged(prefix: object) -> list[bytes]:
        return [b"\0" * 16] * (scene.move.held.prefixes[-1].num_tokens // 4)

    monkeypatch.setattr(workers.decode._exchange, "read_keys", forged)
    scene.move.start()
    await scene.end()

    assert [type(error) for error in scene.move.errors] == [TransferFailed]
    assert await scene.wrongs() == []


async def test_only_a_member_is_pulled_from(
    workers: Siblings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv_transfer.peers.members.NEWS_WAIT_S", 0.01)
    held = await workers.hold_session()
    stranger = PeerIdentity(worker_id=DECODE, epoch=Epoch(7), address="elsewhere:1")
    with pytest.raises(Unavailable, match="is not in the cluster"):
        await workers.sibling.adopt(held, stranger, timeout_s=5.0)
    assert wrongs(workers) == []


async def test_a_prefix_that_ends_within_a_page_is_refused(workers: Siblings) -> None:
    held = await workers.hold_session()
    held = replace(held, prefixes=(PrefixName(5, bytes(16)), held.prefixes[-1]))
    with pytest.raises(InvalidRequest, match="must end pages of 4 tokens, got"):
        await workers.sibling.adopt(held, workers.source(), timeout_s=5.0)
    assert wrongs(workers) == []


async def test_a_worker_that_drains_adopts_nothing(workers: Siblings) -> None:
    held = await workers.hold_session()
    workers.sibling._is_draining = True
    with pytest.raises(Unavailable, match="decode-1 is draining"):
        await workers.sibling.adopt(held, workers.source(), timeout_s=5.0)


def test_the_prompts_continue_each_other() -> None:
    assert THIRD[: len(SECOND)] == SECOND
