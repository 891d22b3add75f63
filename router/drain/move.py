"""The states of one session's move from a draining worker to another decode worker, and the choice
of that worker.

    Waiting ──Assigned──▶ Moving ──Arrived──▶ Moved
       ▲  │                 │ │
       │  │                 │ └──GivenUp──▶ Left
       │  └──GivenUp────────┼─────────────▶ Left
       └──────Refused───────┘

Whatever happens, the source keeps what it has until the session is Moved, and a turn of the session
may start at any time. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from segue.api.cluster.drain import Adopted, LeftReason
from segue.api.errors import IllegalTransition
from segue.api.types import WorkerId


@dataclass(frozen=True, slots=True)
class Waiting:
    """No worker is pulling it."""

    refused_by: frozenset[WorkerId] = frozenset()
    why: LeftReason = LeftReason.NO_WORKER
    """Why it stays behind if no other worker can take it."""


@dataclass(frozen=True, slots=True)
class Pulling:
    """The target is pulling it."""

    target: WorkerId
    refused_by: frozenset[WorkerId]


@dataclass(frozen=True, slots=True)
class Moved:
    target: WorkerId
    adopted: Adopted


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """It stays behind: its next turn computes its prompt."""

    reason: LeftReason


MoveState = Waiting | Pulling | Moved | LeftBehind


@dataclass(frozen=True, slots=True)
class Assigned:
    target: WorkerId


@dataclass(frozen=True, slots=True)
class Arrived:
    """The target has all of it, under a lease."""

    adopted: Adopted


@dataclass(frozen=True, slots=True)
class Refused:
    """The target has no room, drains, is gone, or the transfer failed: another may do better."""

    why: LeftReason


@dataclass(frozen=True, slots=True)
class MoveAbandoned:
    reason: LeftReason


MoveEvent = Assigned | Arrived | Refused | MoveAbandoned


def advance_move(state: MoveState, event: MoveEvent) -> MoveState:
    """Raises IllegalTransition. A target that has refused is not assigned again."""
    match state, event:
        case Waiting(refused_by, _), Assigned(target) if target not in refused_by:
            return Pulling(target, refused_by)
        case Pulling(target, _), Arrived(adopted):
            return Moved(target, adopted)
        case Pulling(target, refused_by), Refused(why):
            return Waiting(refused_by | {target}, why)
        case ((Waiting() | Pulling()), MoveAbandoned(reason)):
            return LeftBehind(reason)
        case _:
            raise IllegalTransition(f"{type(event).__name__} in {type(state).__name__}")


class Sibling(NamedTuple):
    """A ready decode worker, as one choice sees it."""

    worker_id: WorkerId
    free_pages: int
    """Empty pages, without those promised to moves in progress."""
    total_pages: int
    held_tokens: int
    """The longest prefix of the session that it already holds."""
    running_turns: int


def choose_target(num_pages: int, siblings: Iterable[Sibling]) -> Sibling | None:
    """The sibling that should pull a session of this many pages; None if it fits on none.

    Prefers, in this order: a sibling that need not evict anything, the one that holds most of the
    session, the one with the most free pages, so that sessions spread, and the least busy one. A
    sibling without enough free pages may be able to evict pages that no lease protects. Only the
    sibling knows; it refuses if it cannot.
    """

    def preference(sibling: Sibling) -> tuple[bool, int, int, int, WorkerId]:
        return (
            sibling.free_pages < num_pages,
            -sibling.held_tokens,
            -sibling.free_pages,
            sibling.running_turns,
            sibling.worker_id,
        )

    able = [sibling for sibling in siblings if sibling.total_pages >= num_pages]
    return min(able, key=preference, default=None)
