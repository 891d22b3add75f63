"""Carries out a rolling restart, one step at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from segue.api.errors import DeadlineExceeded, NotFound, Unavailable
from segue.process.telemetry import Clock
from segue.upgrade.plan import Done, Member, ProcessView, Restart, Step, Wait, next_step

LOOK_EVERY_S = 0.25
_FIRST_LOOK_EVERY_S = 1.0
# A repeated rolling restart may meet a process that is still starting.
_REACH_S = 15.0

Report = Callable[[str], None]
"""Receives lines for a person."""


class Processes(Protocol):
    """The cluster, as a rolling restart sees it."""

    async def look(self) -> Sequence[ProcessView]:
        """All processes, including those that do not answer now. Raises SegueErrors for a process
        that has never been reached or that refuses the caller."""

    async def drain(self, member: Member) -> str:
        """Returns when the process is about to end, with the outcome for its turns, in words.
        Raises SegueErrors."""


class Upgrade:
    """One rolling restart."""

    def __init__(
        self,
        processes: Processes,
        report: Report,
        *,
        on_start: Callable[[], None] = lambda: None,
        ready_timeout_s: float,
        ran_s: float = 0.0,
        may_interrupt: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        """`on_start` is called before the first step, unless the restart is refused.
        `ready_timeout_s`: for one process, from the end of its drain until its successor serves.
        `ran_s`: the age of the interrupted restart that this one continues. `may_interrupt`: see
        `next_step`.
        """
        self._processes = processes
        self._report = report
        self._on_start = on_start
        self._ready_timeout_s = ready_timeout_s
        self._may_interrupt = may_interrupt
        self._clock = clock
        self._started_at = clock() - ran_s
        self._waiting_since = clock()

    async def run(self) -> list[Member]:
        """Restarts every process that is older than the rolling restart. Returns them, in order.

        Raises InvalidRequest if a kind of process has only one, DeadlineExceeded if a successor is
        late, and the errors of `Processes`.
        """
        seen = await self._first_look()
        known = {one.member for one in seen}
        step = self._step(seen, known)
        self._on_start()
        restarted: list[Member] = []
        while not isinstance(step, Done):
            match step:
                case Restart(member):
                    await self._restart(member)
                    restarted.append(member)
                case Wait(members):
                    await self._wait(members)
            step = self._step(await self._processes.look(), known)
            if not isinstance(step, Wait):
                self._report(f"all ready again after {self._waited_s:.1f} s")
        return restarted

    def _step(self, seen: Sequence[ProcessView], known: Collection[Member]) -> Step:
        """Raises InvalidRequest."""
        return next_step(seen, known=known, age_s=self._age_s, may_interrupt=self._may_interrupt)

    async def _first_look(self) -> Sequence[ProcessView]:
        while True:
            try:
                return await self._processes.look()
            except Unavailable as error:
                if self._waited_s > _REACH_S:
                    raise
                self._report(f"waiting: {error}")
                await asyncio.sleep(_FIRST_LOOK_EVERY_S)

    async def _restart(self, member: Member) -> None:
        started_at = self._clock()
        try:
            outcome = await self._processes.drain(member)
        except (NotFound, Unavailable) as error:
            # It has just died or left: its supervisor starts it anyway.
            outcome = str(error)
        self._report(f"{member} drained in {self._clock() - started_at:.1f} s: {outcome}")
        self._waiting_since = self._clock()
        while await self._is_still_there(member):
            await self._wait((member,))

    async def _is_still_there(self, member: Member) -> bool:
        """Whether the drained process is still shown as ready: it is not its successor."""
        age_s = self._age_s
        return any(
            one.member == member and one.is_ready and one.uptime_s > age_s
            for one in await self._processes.look()
        )

    async def _wait(self, members: Sequence[Member]) -> None:
        """Raises DeadlineExceeded."""
        if self._waited_s > self._ready_timeout_s:
            names = ", ".join(map(str, members))
            raise DeadlineExceeded(
                f"expected the successor of {names} to be ready within "
                f"{self._ready_timeout_s:g} s, and it is not: see `segue status` and its log, then "
                "continue with --since"
            )
        await asyncio.sleep(LOOK_EVERY_S)

    @property
    def _age_s(self) -> float:
        """Seconds since the rolling restart started."""
        return self._clock() - self._started_at

    @property
    def _waited_s(self) -> float:
        return self._clock() - self._waiting_since
