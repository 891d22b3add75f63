"""The turns that clients wait for, at most one of each id.

A second call with the same id is refused, or takes over: then the first is stopped, and must leave
before the second continues.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from router.admission.admission import Admission
from router.turn.turn import Turn
from segue.api.errors import InvalidRequest, SegueError, TakenOver
from segue.api.types import TurnId

TurnName = tuple[str, TurnId]
"""The tenant's name, and the turn's own."""

# A turn leaves sooner than this if its client reads, or if it waits for a worker.
_STOP_S = 1.0


class Ongoing:
    """One call for a turn, from its arrival to its end."""

    def __init__(self, before: Ongoing | None) -> None:
        self.over = asyncio.Event()
        self.before = before
        self._turn: Turn | None = None
        self._error: SegueError | None = None
        # The task that reads the turn's events and sends them to the client.
        self._task = asyncio.current_task()

    @property
    def is_interrupted(self) -> bool:
        return self._error is not None

    def runs(self, turn: Turn) -> None:
        """The turn has its prompt, and is about to start."""
        self._turn = turn
        if self._error is not None:
            turn.interrupt(self._error)

    def interrupt(self, error: SegueError) -> None:
        """Ends the turn. A turn that has not started yet ends as soon as it starts."""
        self._error = self._error or error
        if self._turn is not None:
            self._turn.interrupt(error)

    async def left(self) -> None:
        """Returns once this interrupted call, and those that it took over, have ended."""
        if self.before is not None:
            await self.before.left()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await self.over.wait()
        if not self.over.is_set() and self._task is not None:
            # Its client no longer reads, so the turn waits for room to send.
            self._task.cancel("another call has resumed the turn")
            self._task = None
        await self.over.wait()

    async def displace(self) -> None:
        """Waits for the calls that this one takes over. Raises TakenOver if another call takes over
        this one in the meantime."""
        if self.before is not None:
            await self.before.left()
            self.before = None
        if isinstance(self._error, TakenOver):
            raise self._error


class OngoingTurns:
    """One event loop owns it."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._newest: dict[TurnName, Ongoing] = {}

    @contextlib.asynccontextmanager
    async def entered(self, name: TurnName, *, takes_over: bool) -> AsyncIterator[Ongoing]:
        """Within the block, the call is the only one of its turn. Raises InvalidRequest if there is
        another that it may not take over."""
        before = self._newest.get(name)
        if before is not None and not takes_over:
            raise InvalidRequest(
                f"turn {name[1]} is already running: use another turn_id, or, to continue an "
                "answer whose stream broke, send the tokens that arrived (resume)"
            )
        own = self._newest[name] = Ongoing(before)
        try:
            if before is not None:
                self._interrupt(name, before, TakenOver("another call has resumed this turn"))
                await own.displace()
            yield own
        finally:
            own.over.set()
            if self._newest.get(name) is own:
                del self._newest[name]
                if own.before is not None and not own.before.over.is_set():
                    # This call's client left before it had taken over.
                    self._newest[name] = own.before

    def cancel(self, name: TurnName, error: SegueError) -> bool:
        """Ends the turn with `error`. Returns whether there was one."""
        ongoing = self._newest.get(name)
        if ongoing is None:
            return False
        self._interrupt(name, ongoing, error)
        return True

    def end_all(self, error: SegueError) -> None:
        for name, ongoing in self._newest.items():
            self._interrupt(name, ongoing, error)

    def _interrupt(self, name: TurnName, ongoing: Ongoing, error: SegueError) -> None:
        # A call that waits for a place has no turn yet.
        if not self._admission.cancel(name, error):
            ongoing.interrupt(error)
