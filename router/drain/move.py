"""The states of one session's move from a worker that drains to another decode worker.

    Waiting ──Assigned──▶ Moving ──Arrived──▶ Moved
       ▲  │                 │ │
       │  │                 │ └──GivenUp──▶ Left
       │  └──GivenUp────────┼─────────────▶ Left
       └──────Refused───────┘

Whatever happens, the source keeps what it has until the session is Moved, and a turn of the session
may start at any time. Pure: no clock, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.cluster.drain import Adopted, LeftReason
from segue.api.errors import IllegalTransition
from segue.api.types import WorkerId


@dataclass(frozen=True, slots=True)
class Waiting:
    """No worker pulls it now."""

    refused_by: frozenset[WorkerId] = frozenset()
    why: LeftReason = LeftReason.NO_WORKER
    """Why it stays behind if no other worker can take it."""


@dataclass(frozen=True, slots=True)
class Moving:
    """The target pulls it."""

    target: WorkerId
    refused_by: frozenset[WorkerId]


@dataclass(frozen=True, slots=True)
class Moved:
    target: WorkerId
    adopted: Adopted


@dataclass(frozen=True, slots=True)
class Left:
    """It stays behind: its next turn computes its prompt."""

    reason: LeftReason


MoveState = Waiting | Moving | Moved | Left


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
class GivenUp:
    reason: LeftReason


MoveEvent = Assigned | Arrived | Refused | GivenUp


def advance_move(state: MoveState, event: MoveEvent) -> MoveState:
    """Raises IllegalTransition. A target that has refused is not assigned again."""
    match state, event:
        case Waiting(refused_by, _), Assigned(target) if target not in refused_by:
            return Moving(target, refused_by)
        case Moving(target, _), Arrived(adopted):
            return Moved(target, adopted)
        case Moving(target, refused_by), Refused(why):
            return Waiting(refused_by | {target}, why)
        case ((Waiting() | Moving()), GivenUp(reason)):
            return Left(reason)
        case _:
            raise IllegalTransition(f"{type(event).__name__} in {type(state).__name__}")
