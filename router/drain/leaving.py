"""Takes the router itself out of service, as `segue/worker/drain.py:Draining` does a worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from router.router import Router
from segue.api.cluster.drain import DrainReport, HeldSession, LeftReason, MoveReport
from segue.process.telemetry import Clock
from segue.worker.drain import Deadline, Draining, MoveSessions


def draining_of(
    router: Router, *, default_s: float, started: Callable[[], Awaitable[None]], clock: Clock
) -> Draining:
    async def drain(until: Deadline, move: MoveSessions | None) -> DrainReport:
        """At the deadline, turns that still run are cut: clients continue them elsewhere."""
        turns = await router.drain(until.left_s)
        return DrainReport(ended_turns=turns.ended, moved_turns=turns.left)

    return Draining(drain, _keeps_none, default_s=default_s, started=started, clock=clock)


async def _keeps_none(sessions: Sequence[HeldSession], timeout_s: float) -> MoveReport:
    """Sessions are on workers. A router has copies of histories, which clients send again."""
    return MoveReport.all_left([held.session_id for held in sessions], LeftReason.STOPPING)
