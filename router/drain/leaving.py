"""Takes the router itself out of service, as `segue/worker/drain.py:Draining` does a worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from router.router import Router
from segue.api.cluster.drain import DrainReport, HeldSession, LeftReason, MoveReport
from segue.api.types import WorkerId
from segue.process.telemetry import Clock
from segue.worker.drain import Deadline, Draining, MoveSessions


class _LeavingRouter:
    """Running turns end, or are cut at the deadline: clients go on with them on another router."""

    name = WorkerId("router")

    def __init__(self, router: Router) -> None:
        self._router = router

    async def drain(self, until: Deadline, move: MoveSessions | None) -> DrainReport:
        turns = await self._router.drain(until.left_s)
        return DrainReport(ended_turns=turns.ended, moved_turns=turns.left)


def draining_of(
    router: Router, *, default_s: float, started: Callable[[], Awaitable[None]], clock: Clock
) -> Draining:
    return Draining(
        _LeavingRouter(router), _keeps_none, default_s=default_s, started=started, clock=clock
    )


async def _keeps_none(sessions: Sequence[HeldSession], timeout_s: float) -> MoveReport:
    """Sessions are on workers. A router has copies of histories, which clients send again."""
    return MoveReport.all_left([held.session_id for held in sessions], LeftReason.STOPPING)
