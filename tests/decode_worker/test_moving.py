"""What a draining decode worker offers to the router, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from decode_worker.memory import moving
from decode_worker.memory.leases import TieredLeases
from decode_worker.memory.moving import move_away, sessions_held
from segue.api.cluster.drain import HeldSession, LeftReason, MoveReport
from segue.api.errors import InvalidRequest, SegueError, Unavailable
from segue.api.types import SessionId
from segue.worker.drain import Deadline
from tests.cache.prefix_world import PAGE_TOKENS, prompt
from tests.cache.tiered_world import TieredWorld

A, B, C = (prompt(number, 40) for number in (1, 2, 3))
a, b, c = SessionId("a"), SessionId("b"), SessionId("c")


class Sessions(TieredWorld):
    """Leases in both tiers, and a router that answers on command."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = TieredLeases(self.cache, self.tier, lambda: self.now)
        self.offers: list[list[str]] = []
        self.busy: set[SessionId] = set()
        self.answer: Callable[[Sequence[HeldSession]], MoveReport] = lambda sessions: MoveReport(
            {session.session_id: 10 for session in sessions}
        )
        self.errors: list[SegueError] = []

    async def turn(self, session_id: SessionId, tokens: tuple[int, ...], *checkpoints: int) -> None:
        hold = self.run(tokens, *checkpoints)
        self.leases.grant(session_id, hold.node, 100.0)
        self.cache.release(hold)
        async with asyncio.timeout(5):
            while self.tier._tasks or self.leases._copies:
                await asyncio.sleep(0.001)

    async def move(self, sessions: Sequence[HeldSession], timeout_s: float) -> MoveReport:
        self.offers.append([session.session_id for session in sessions])
        if self.errors:
            raise self.errors.pop(0)
        return self.answer(sessions)

    async def drain(self, timeout_s: float = 5.0, *, moves: bool = True) -> MoveReport:
        loop = asyncio.get_running_loop()
        return await move_away(
            self.leases,
            lambda: set(self.busy),
            Deadline(timeout_s, loop.time),
            self.move if moves else None,
            clock=lambda: self.now,
        )

    @property
    def leased(self) -> list[SessionId]:
        return sorted(lease.session_id for lease in self.leases.most_recent_first())


@pytest.fixture
async def sessions() -> Sessions:
    return Sessions()


async def test_a_session_is_offered_with_its_prefixes_and_lease(sessions: Sessions) -> None:
    await sessions.turn(a, A[:16], 8, 16)
    (held,), _ = sessions_held(sessions.leases, lambda: sessions.now + 30.0)

    node = sessions.cache.leases.get(a)
    assert node is not None
    assert [prefix.num_tokens for prefix in held.prefixes] == [8, 16]
    assert held.prefixes[-1].digest == node.node.digest
    assert held.expires_in_s == pytest.approx(70.0)


async def test_superseded_states_are_not_offered(sessions: Sessions) -> None:
    await sessions.turn(a, A[:16], 8, 16)
    (checkpoint,) = [n.checkpoint for n in sessions.cache.tree.nodes() if n.num_tokens == 8]
    assert checkpoint is not None
    sessions.cache.pins.supersede(checkpoint)
    (held,), _ = sessions_held(sessions.leases, lambda: sessions.now)

    assert [prefix.num_tokens for prefix in held.prefixes] == [16]


async def test_leases_of_moved_sessions_end_and_others_stay(sessions: Sessions) -> None:
    for session_id, tokens in ((a, A), (b, B), (c, C)):
        await sessions.turn(session_id, tokens[:8], 8)
    sessions.answer = lambda offered: MoveReport(
        {a: 10, SessionId("never offered"): 1}, {b: LeftReason.NO_MEMORY}
    )
    report = await sessions.drain()

    assert sessions.offers == [["c", "b", "a"]]
    assert report == MoveReport({a: 10}, {b: LeftReason.NO_MEMORY, c: LeftReason.FAILED})
    assert sessions.leased == [b, c]
    sessions.check()


async def test_a_session_that_is_only_on_the_host_is_offered_last(sessions: Sessions) -> None:
    await sessions.turn(b, B[:8], 8)
    await sessions.turn(a, A[:8], 8)
    sessions.cache.leases.end(a)
    report = await sessions.drain()

    assert sessions.offers == [["b", "a"]]
    assert report.moved == {a: 10, b: 10}
    assert sessions.leased == []


async def test_a_session_without_a_state_is_not_offered(sessions: Sessions) -> None:
    await sessions.turn(a, A[: 2 * PAGE_TOKENS])
    report = await sessions.drain()

    assert sessions.offers == []
    assert report == MoveReport(left={a: LeftReason.NO_STATE})


async def test_a_session_is_offered_when_its_turn_has_ended(sessions: Sessions) -> None:
    await sessions.turn(a, A[:8], 8)
    await sessions.turn(b, B[:8], 8)
    sessions.busy = {a}
    draining = asyncio.ensure_future(sessions.drain())
    await asyncio.sleep(0.02)
    assert sessions.offers == [["b"]]
    await sessions.turn(a, A[:16], 16)
    sessions.busy = set()
    report = await draining

    assert sessions.offers == [["b"], ["a"]]
    assert report.moved == {a: 10, b: 10}


async def test_a_session_whose_turn_outlasts_the_drain_is_not_counted(sessions: Sessions) -> None:
    await sessions.turn(a, A[:8], 8)
    sessions.busy = {a}

    assert await sessions.drain(0.02) == MoveReport()


async def test_at_the_deadline_the_remaining_sessions_stay(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_AT_ONCE", 1)
    await sessions.turn(a, A[:8], 8)
    await sessions.turn(b, B[:8], 8)
    until = Deadline(60.0, lambda: sessions.now)

    async def slow(offered: Sequence[HeldSession], timeout_s: float) -> MoveReport:
        sessions.now += 61.0
        return MoveReport({session.session_id: 1 for session in offered})

    report = await move_away(sessions.leases, set, until, slow, clock=lambda: sessions.now)
    assert report == MoveReport({b: 1}, {a: LeftReason.NO_TIME})


async def test_without_moves_all_sessions_stay(sessions: Sessions) -> None:
    await sessions.turn(a, A[:8], 8)

    assert await sessions.drain(moves=False) == MoveReport(left={a: LeftReason.NOT_ASKED})
    assert sessions.offers == []


async def test_a_drain_waits_for_a_router_that_restarts(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_TRY_AGAIN_S", 0.001)
    await sessions.turn(a, A[:8], 8)
    sessions.errors = [Unavailable("away"), Unavailable("away")]

    assert (await sessions.drain()).moved == {a: 10}
    assert len(sessions.offers) == 3


@pytest.mark.parametrize("error", [Unavailable("away"), InvalidRequest("what?")])
async def test_a_router_that_does_not_answer_is_given_up(
    sessions: Sessions, error: SegueError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_TRY_AGAIN_S", 0.001)
    monkeypatch.setattr(moving, "_ROUTER_AWAY_S", 0.01)
    await sessions.turn(a, A[:8], 8)
    sessions.errors = [error] * 1000

    assert await sessions.drain() == MoveReport(left={a: LeftReason.FAILED})
    assert sessions.leased == [a]
