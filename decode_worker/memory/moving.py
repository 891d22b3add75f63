"""Moves a draining worker's sessions away: chooses which ones to offer to the router, and when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from decode_worker.memory.leases import TieredLeases
from segue.api.cluster.drain import MAX_PREFIXES, HeldSession, LeftReason, MoveReport
from segue.api.errors import SegueError, Unavailable
from segue.api.prompt import PrefixName
from segue.api.types import SessionId
from segue.cache.prefix.leases import Lease
from segue.process.telemetry import Clock
from segue.worker.drain import Deadline, MoveSessions

logger = logging.getLogger(__name__)

# Sessions in one request to the router. Between two requests, the leases of moved sessions end, and
# `segue status` shows how many are left.
_AT_ONCE = 32
# How long a router may be unreachable, for example because it restarts.
_ROUTER_AWAY_S = 5.0
_TRY_AGAIN_S = 0.25


def sessions_held(leases: TieredLeases, clock: Clock) -> tuple[list[HeldSession], list[SessionId]]:
    """The sessions that can be moved, and those that have no state. The most recently used come
    first; those that are only on the host come last."""
    held, without_state, now = [], [], clock()
    for lease in leases.most_recent_first():
        if prefixes := _prefixes_of(lease):
            expires_in_s = max(lease.expires_at - now, 0.0)
            held.append(
                HeldSession(
                    session_id=lease.session_id, prefixes=prefixes, expires_in_s=expires_in_s
                )
            )
        else:
            without_state.append(lease.session_id)
    return held, without_state


def _prefixes_of(lease: Lease) -> tuple[PrefixName, ...]:
    """The prefixes with a state that the session's next turn may need."""
    names = [
        PrefixName(node.num_tokens, node.digest)
        for node in lease.node.upwards()
        if node.checkpoint and not node.checkpoint.is_superseded
    ]
    # The deepest state is the lease's own, so it is always among them.
    return tuple(reversed(names[:MAX_PREFIXES]))


async def move_away(
    leases: TieredLeases,
    busy: Callable[[], Collection[SessionId]],
    until: Deadline,
    move: MoveSessions | None,
    *,
    clock: Clock,
) -> MoveReport:
    """Offers every session to the router, immediately or when its turn here has ended, and ends the
    leases of those that were moved. Returns at the deadline, or when no session is left to offer.

    `busy`: the sessions whose turns run here. Without a `move` nothing is moved.
    """
    report = MoveReport()
    while True:
        (held, without_state), running = sessions_held(leases, clock), busy()
        done = {*report.moved, *report.left}
        now = [s for s in held if s.session_id not in running and s.session_id not in done]
        stateless = [s for s in without_state if s not in running and s not in done]
        report |= MoveReport.all_left(stateless, LeftReason.NO_STATE)
        if move is None or not until.left_s:
            reason = LeftReason.NO_TIME if move else LeftReason.NOT_ASKED
            return report | MoveReport.all_left((s.session_id for s in now), reason)
        if now:
            batch = now[:_AT_ONCE]
            moved = await _moved(batch, until, move)
            for session_id in moved.moved:
                leases.end(session_id)
            report |= moved
        elif running:
            await until.until(lambda running=running: busy() != running)  # type: ignore[misc]  # bound now
        else:
            return report


async def _moved(batch: Sequence[HeldSession], until: Deadline, move: MoveSessions) -> MoveReport:
    """The router's report about each session of the batch."""
    patience = until.another(min(_ROUTER_AWAY_S, until.left_s))
    while True:
        try:
            report = await move(batch, until.left_s)
            break
        except SegueError as error:
            if not (isinstance(error, Unavailable) and patience.left_s):
                logger.warning("sessions were not moved", extra={"error": str(error)})
                report = MoveReport()
                break
        await asyncio.sleep(_TRY_AGAIN_S)
    offered = {session.session_id for session in batch}
    unknown = offered - {*report.moved, *report.left}
    kept = MoveReport(
        {s: size for s, size in report.moved.items() if s in offered},
        {s: why for s, why in report.left.items() if s in offered},
    )
    return kept | MoveReport.all_left(unknown, LeftReason.FAILED)
