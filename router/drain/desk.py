"""Drains workers and moves their sessions: siblings pull them, the table records where they are.

The draining worker requests the moves, whether an operator or a signal started its drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from router.drain.move import (
    Arrived,
    Assigned,
    LeftBehind,
    MoveAbandoned,
    Moved,
    MoveEvent,
    MoveState,
    Pulling,
    Refused,
    Sibling,
    Waiting,
    advance_move,
    choose_target,
)
from router.membership.membership import Membership
from router.sessions.table import SessionTable
from router.turn.links import Links
from segue.api.checks import require_number
from segue.api.cluster.drain import (
    MAX_DRAIN_S,
    Adopted,
    DrainReport,
    HeldSession,
    LeftReason,
    MoveReport,
)
from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.errors import DeadlineExceeded, NotFound, Overloaded, SegueError, Unavailable
from segue.api.types import Epoch, Role, SessionId, WorkerId
from segue.process.telemetry import Clock

logger = logging.getLogger(__name__)

# Sessions of one drain that are pulled concurrently. More would share the same link.
_AT_ONCE = 4


@dataclass(slots=True, eq=False)
class DrainDesk:
    """One event loop owns it."""

    table: SessionTable
    membership: Membership
    links: Links
    is_stopping: Callable[[], bool]
    """Whether the router itself drains, and the cluster with it. Then there is no point in moving a
    session."""
    clock: Clock

    async def drain(
        self, worker_id: WorkerId, timeout_s: float | None, *, move_sessions: bool
    ) -> DrainReport:
        """Returns when the worker is about to leave. Raises NotFound, Unavailable,
        InvalidRequest."""
        if timeout_s is not None:
            require_number("timeout_s", timeout_s, 0.0, MAX_DRAIN_S)
        worker = self.membership.find(worker_id)
        if worker is None:
            known = ", ".join(member.worker_id for member in self.membership.workers())
            raise NotFound(f"no worker is called {worker_id!r:.80}; there is {known or 'none'}")
        if worker.health is WorkerHealth.LOST:
            raise Unavailable(f"{worker_id} is lost: there is nothing to drain")
        self.membership.drains(worker_id, worker.epoch)
        return await self.links.to(worker).drain(timeout_s, move_sessions=move_sessions)

    async def move(
        self,
        worker_id: WorkerId,
        epoch: Epoch,
        sessions: Sequence[HeldSession],
        *,
        timeout_s: float,
    ) -> MoveReport:
        """Moves a draining worker's sessions, in this order. Returns when each has been moved or
        left behind. Raises NotFound if the worker is not a member, InvalidRequest."""
        require_number("timeout_s", timeout_s, 0.0, MAX_DRAIN_S)
        source = self.membership.find(worker_id)
        if source is None or source.epoch != epoch or source.role is not Role.DECODE:
            raise NotFound(
                f"{worker_id!r:.80} in epoch {epoch} is no decode worker of this cluster: join it "
                "first"
            )
        self.membership.drains(worker_id, epoch)
        report = await _Moves(self, source, self.clock() + timeout_s).run(sessions)
        logger.info(
            "sessions moved",
            extra={
                "worker": worker_id,
                "moved": len(report.moved),
                "bytes": sum(report.moved.values()),
                "left_behind": {why.value: n for why, n in Counter(report.left.values()).items()},
            },
        )
        return report


@dataclass(slots=True, eq=False)
class _Moves:
    """The moves of one request."""

    _desk: DrainDesk
    _source: WorkerStatus
    _ends_at: float
    _promised_pages: Counter[WorkerId] = field(default_factory=Counter)
    """For the rest of the request, since heartbeats of siblings are late."""

    async def run(self, sessions: Sequence[HeldSession]) -> MoveReport:
        waiting = deque(sessions)
        moved: dict[SessionId, int] = {}
        left: dict[SessionId, LeftReason] = {}

        async def move_one_after_another() -> None:
            while waiting:
                session = waiting.popleft()
                match await self._move(session):
                    case Moved(_, adopted):
                        moved[session.session_id] = adopted.moved_bytes
                    case LeftBehind(reason):
                        left[session.session_id] = reason

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(_AT_ONCE, len(sessions))):
                tasks.create_task(move_one_after_another())
        return MoveReport(moved, left)

    async def _move(self, session: HeldSession) -> Moved | LeftBehind:
        state: MoveState = Waiting()
        while True:
            match state:
                case Waiting():
                    state = advance_move(state, self._assign(session, state))
                case Pulling(target, _):
                    state = advance_move(state, await self._pull(session, target))
                case Moved() | LeftBehind():
                    return state

    def _assign(self, session: HeldSession, state: Waiting) -> MoveEvent:
        desk, source = self._desk, self._source
        if desk.is_stopping():
            return MoveAbandoned(LeftReason.STOPPING)
        if self._left_s() <= 0:
            return MoveAbandoned(LeftReason.NO_TIME)
        now = desk.membership.find(source.worker_id)
        if now is None or now.epoch != source.epoch or now.health is WorkerHealth.LOST:
            return MoveAbandoned(LeftReason.FAILED)
        if desk.table.of(session.session_id).decode_worker != source.worker_id:
            return MoveAbandoned(LeftReason.ELSEWHERE)
        siblings = [s for s in self._siblings(session) if s.worker_id not in state.refused_by]
        num_pages = self._num_pages(session)
        target = choose_target(num_pages, siblings)
        if target is None:
            return MoveAbandoned(LeftReason.NO_MEMORY if siblings else state.why)
        self._promised_pages[target.worker_id] += num_pages
        return Assigned(target.worker_id)

    def _siblings(self, session: HeldSession) -> list[Sibling]:
        desk, record = self._desk, self._desk.table.of(session.session_id)
        return [
            Sibling(
                worker_id=worker.worker_id,
                free_pages=worker.load.pages.free - self._promised_pages[worker.worker_id],
                total_pages=worker.load.pages.total,
                held_tokens=max((k.tokens for k in record.decodes if k.is_on(worker)), default=0),
                running_turns=worker.load.running_turns,
            )
            for worker in desk.membership.workers()
            if worker.role is Role.DECODE
            and worker.health is WorkerHealth.READY
            and worker.worker_id != self._source.worker_id
        ]

    async def _pull(self, session: HeldSession, target_id: WorkerId) -> MoveEvent:
        target = self._desk.membership.find(target_id)
        if target is None or target.health is not WorkerHealth.READY:
            return Refused(LeftReason.NO_WORKER)
        try:
            link = self._desk.links.decode(target)
            adopted = await link.adopt(session, self._source, timeout_s=max(self._left_s(), 0.001))
        except NotFound:
            return MoveAbandoned(LeftReason.NO_STATE)
        except DeadlineExceeded:
            return MoveAbandoned(LeftReason.NO_TIME)
        except SegueError as error:
            logger.info(
                "session not moved",
                extra={"to": target_id, "error": f"{type(error).__name__}: {error}"},
            )
            self._promised_pages[target_id] -= self._num_pages(session)
            is_full = isinstance(error, Overloaded)
            return Refused(LeftReason.NO_MEMORY if is_full else LeftReason.FAILED)
        return await self._arrived(session, target, adopted)

    async def _arrived(
        self, session: HeldSession, target: WorkerStatus, adopted: Adopted
    ) -> MoveEvent:
        session_id, table = session.session_id, self._desk.table
        if session_id not in table:
            # The session was released in the meantime.
            with contextlib.suppress(SegueError):
                await self._desk.links.decode(target).end_lease(session_id)
            return MoveAbandoned(LeftReason.ELSEWHERE)
        table.of(session_id).moved(self._source, target, adopted)
        await self._carry_renewal_over(session, target)
        return Arrived(adopted)

    async def _carry_renewal_over(self, session: HeldSession, target: WorkerStatus) -> None:
        """Applies to the target's lease a renewal that reached the source during the move. From
        here on, renewals reach the target."""
        links, session_id = self._desk.links, session.session_id
        # If the source is gone, its lease is unknown; if the target is, there is none to renew.
        with contextlib.suppress(SegueError):
            left_s = await links.decode(self._source).end_lease(session_id)
            if left_s:
                await links.decode(target).renew_lease(session_id, left_s, only_longer=True)

    def _num_pages(self, session: HeldSession) -> int:
        return session.prefixes[-1].num_tokens // self._source.load.page_tokens

    def _left_s(self) -> float:
        return self._ends_at - self._desk.clock()
