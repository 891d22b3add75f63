"""Workers that drain with turns, moves and writes in flight: nothing waits without bound, and no
memory goes while another worker reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from segue.api.cluster.drain import DrainReport, HeldSession, LeftReason, MoveReport
from segue.api.errors import SegueError, Unavailable
from segue.worker.drain import Deadline, MoveSessions
from tests.workers.fake_runner import answer_to
from tests.workers.siblings import FIRST, SECOND, SESSION, LocalTurn, Move, Siblings
from tests.workers.two_workers import NUM_ANSWERED, PREFILL, ShippedTurn, spec, until, wrongs


@pytest.fixture
async def workers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Siblings]:
    monkeypatch.setattr("kv_transfer.reading.fencer.FIRST_RETRY_S", 0.001)
    with contextlib.ExitStack() as stack:
        workers = Siblings(stack)
        yield workers
        workers.let_go()
        await workers.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def within(seconds: float) -> Deadline:
    return Deadline(seconds, asyncio.get_running_loop().time)


def move_to_the_sibling(workers: Siblings) -> MoveSessions:
    """What the router does."""

    async def move(sessions: Sequence[HeldSession], timeout_s: float) -> MoveReport:
        moved = {}
        for session in sessions:
            adopted = await workers.sibling.adopt(session, workers.source(), timeout_s=timeout_s)
            moved[session.session_id] = adopted.moved_bytes
        return MoveReport(moved)

    return move


async def test_a_drained_workers_session_is_on_its_sibling(workers: Siblings) -> None:
    held = await workers.hold_session()
    report = await workers.decode.drain(within(5.0), move_to_the_sibling(workers))

    assert report.moved_sessions == 1
    assert report.moved_bytes > 0
    assert workers.held(workers.decode) == []
    assert workers.held(workers.sibling) == [held]
    assert wrongs(workers) == []


async def test_a_turn_that_ends_in_time_ends_here_and_its_session_moves(
    workers: Siblings,
) -> None:
    workers.runners[PREFILL].gate.close()
    turn = ShippedTurn(workers, replace(spec("running", FIRST), session_id=SESSION))
    turn.start()
    assert await asyncio.to_thread(workers.runners[PREFILL].gate.wait_until_reached)
    move = move_to_the_sibling(workers)
    draining = asyncio.ensure_future(workers.decode.drain(within(5.0), move))
    await asyncio.sleep(0.05)
    workers.let_go()
    report = await draining
    await until(turn.is_over)

    assert turn.tokens == answer_to(FIRST, NUM_ANSWERED)
    assert turn.result is not None
    assert (report.ended_turns, report.moved_turns, report.moved_sessions) == (1, 0, 1)
    late = await LocalTurn(workers.decode, "late", SECOND).run()
    assert [type(error) for error in late.errors] == [Unavailable]
    assert wrongs(workers) == []


async def test_a_prompt_that_takes_too_long_is_placed_elsewhere(workers: Siblings) -> None:
    """On prefill, while its engine is busy; the router gets an error that it may retry."""
    workers.runners[PREFILL].gate.close()
    turn = ShippedTurn(workers, spec("long", FIRST))
    turn.start()
    assert await asyncio.to_thread(workers.runners[PREFILL].gate.wait_until_reached)
    draining = asyncio.ensure_future(workers.prefill.drain(within(0.05), None))
    await asyncio.sleep(0.1)
    workers.let_go()
    report = await draining
    await until(turn.is_over)

    assert report == DrainReport(moved_turns=1)
    # Decode may learn of it first, from the abort.
    refusals = [error for error in turn.errors if isinstance(error, SegueError)]
    assert refusals
    assert all(error.retry_is_safe for error in refusals)
    assert wrongs(workers) == []


async def test_an_answer_that_takes_too_long_continues_elsewhere(workers: Siblings) -> None:
    """Before its first token: its prompt is still being written."""
    workers.network.hold()
    turn = ShippedTurn(workers, spec("long", FIRST))
    turn.start()
    assert await asyncio.to_thread(workers.network.wait_until_held, 5.0)
    draining = asyncio.ensure_future(workers.decode.drain(within(0.05), None))
    await until(lambda: turn.at_decode.is_over)
    # The writer has not stopped yet, so the worker stays.
    assert workers.decode._memory.pages.counts().quarantined > 0
    assert not draining.done()
    workers.let_go()
    report = await draining
    await until(turn.is_over)

    assert (report.ended_turns, report.moved_turns) == (0, 1)
    assert isinstance(turn.errors[0], Unavailable)
    assert wrongs(workers) == []


async def test_memory_that_is_being_read_is_not_freed(workers: Siblings) -> None:
    """A pull has started before the drain ends, and its reader gets all of it."""
    held = await workers.hold_session()
    workers.network.hold()
    move = Move(workers, held)
    move.start()
    assert await asyncio.to_thread(workers.network.wait_until_held, 5.0)
    draining = asyncio.ensure_future(workers.decode.drain(within(0.0), None))
    await asyncio.sleep(0.1)
    assert not draining.done()
    workers.let_go()
    report = await draining
    await until(move.is_over)

    assert move.adopted is not None
    assert report.left == {LeftReason.NOT_ASKED: 1}
    assert wrongs(workers) == []


async def test_a_drain_does_not_wait_forever_for_a_reader(
    workers: Siblings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv_transfer.worker._SETTLE_S", 0.05)
    held = await workers.hold_session()
    workers.network.hold()
    move = Move(workers, held)
    move.start()
    assert await asyncio.to_thread(workers.network.wait_until_held, 5.0)
    async with asyncio.timeout(5.0):
        await workers.decode.drain(within(0.0), None)

    assert not move.pulling.is_over
    workers.let_go()
    await until(move.is_over)
    assert wrongs(workers) == []


async def test_a_router_that_does_not_answer_does_not_hold_the_worker(
    workers: Siblings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv_transfer.worker._ANSWER_S", 0.01)
    await workers.hold_session()

    async def never(sessions: Sequence[HeldSession], timeout_s: float) -> MoveReport:
        await asyncio.Event().wait()
        raise AssertionError

    async with asyncio.timeout(5.0):
        report = await workers.decode.drain(within(0.05), never)
    assert report == DrainReport()
    assert workers.decode._memory.cache.leases.get(SESSION) is not None


async def test_a_sibling_that_starts_to_drain_during_a_move_gives_it_up(
    workers: Siblings,
) -> None:
    held = await workers.hold_session()
    workers.network.hold()
    move = Move(workers, held)
    move.start()
    assert await asyncio.to_thread(workers.network.wait_until_held, 5.0)
    draining = asyncio.ensure_future(workers.sibling.drain(within(0.05), None))
    await until(lambda: move.pulling.is_over)
    workers.let_go()
    await draining
    await until(move.is_over)

    assert [type(error) for error in move.errors] == [Unavailable]
    assert workers.held(workers.decode) == [held]
    assert wrongs(workers) == []
