"""Takes a worker out of service: no new turns, running ones end, its sessions move, it leaves.

    ready ─ ask ─▶ draining ─ turns over, sessions moved, no write in flight ─▶ drained ─▶ it leaves
                      └────── the deadline: turns go on elsewhere ──────────────────▲

A drain has one deadline, for turns and sessions together. It starts once and cannot be undone. A
later order joins it, and can only shorten it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from segue.api.checks import require_number
from segue.api.cluster.drain import MAX_DRAIN_S, DrainReport, HeldSession, MoveReport
from segue.process.telemetry import Clock

logger = logging.getLogger(__name__)

MoveSessions = Callable[[Sequence[HeldSession], float], Awaitable[MoveReport]]
"""Makes the router move sessions to other workers, within these seconds. Raises SegueErrors."""

_LOOK_EVERY_S = 0.05


class Deadline:
    """A deadline that can be moved forward, but not back. The event loop owns it."""

    def __init__(self, timeout_s: float, clock: Clock) -> None:
        self._clock = clock
        self._at = clock() + timeout_s

    @property
    def left_s(self) -> float:
        return max(self._at - self._clock(), 0.0)

    def shorten(self, timeout_s: float) -> None:
        self._at = min(self._at, self._clock() + timeout_s)

    def another(self, timeout_s: float) -> Deadline:
        """Another deadline by the same clock."""
        return Deadline(timeout_s, self._clock)

    async def until(self, is_so: Callable[[], bool]) -> bool:
        """Waits until `is_so()`, or until the deadline. Returns the last `is_so()`."""
        while not is_so():
            if not self.left_s:
                return False
            await asyncio.sleep(min(self.left_s, _LOOK_EVERY_S))
        return True


class WorkerDrain:
    """The drain of one worker. The event loop owns it."""

    def __init__(
        self,
        drain: Callable[[Deadline, MoveSessions | None], Awaitable[DrainReport]],
        move: MoveSessions,
        *,
        default_s: float,
        started: Callable[[], Awaitable[None]],
        clock: Clock,
    ) -> None:
        """`drain`: the worker's. `default_s`: how long a drain may take if its order sets no
        timeout. `started` is called once, before anything else happens."""
        self.ended = asyncio.Event()
        """Set when the worker may leave, which it then does by itself."""
        self._drain = drain
        self._move = move
        self._default_s = default_s
        self._started = started
        self._clock = clock
        self._until: Deadline | None = None
        self._task: asyncio.Task[DrainReport] | None = None

    @property
    def left_s(self) -> float:
        """Until the deadline; 0 if there is no drain."""
        return self._until.left_s if self._until else 0.0

    async def ask(self, timeout_s: float | None, *, move_sessions: bool) -> DrainReport:
        """Returns when the worker may leave. A caller that leaves does not end the drain."""
        timeout_s = self._default_s if timeout_s is None else timeout_s
        require_number("timeout_s", timeout_s, 0.0, MAX_DRAIN_S)
        if self._until is None or self._task is None:
            self._until = Deadline(timeout_s, self._clock)
            self._task = asyncio.ensure_future(self._run(self._until, timeout_s, move_sessions))
        else:
            self._until.shorten(timeout_s)
        return await asyncio.shield(self._task)

    async def _run(self, until: Deadline, timeout_s: float, move_sessions: bool) -> DrainReport:
        started_at = self._clock()
        logger.info("drain started", extra={"timeout_s": timeout_s, "move_sessions": move_sessions})
        try:
            await self._started()
            report = await self._drain(until, self._move if move_sessions else None)
        finally:
            self.ended.set()
        logger.info(
            "drain ended",
            extra={
                "seconds": round(self._clock() - started_at, 3),
                "ended_turns": report.ended_turns,
                "moved_turns": report.moved_turns,
                "moved_sessions": report.moved_sessions,
                "moved_bytes": report.moved_bytes,
                "left_behind": {reason.value: count for reason, count in report.left.items()},
            },
        )
        return report
