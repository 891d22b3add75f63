"""One turn as a pure state machine. A state holds what a failure in it must release.

Received ─PlacedOn▶ Placed ─TicketTaken▶ Dispatched ─FirstToken▶ Streaming ─Ended▶ Over
   │  ▲───────────────┴─── Retried ──────────┴──────────────────────┤
   └──────────────────┴──────────────────────┴─── Ended ────────────┴─────────────▶ Over

A turn that is retried while it streams continues after the tokens that its client has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from router.placement.estimate import Placement
from segue.api.cluster.status import WorkerStatus
from segue.api.errors import (
    DeadlineExceeded,
    IllegalTransition,
    InvalidRequest,
    Overloaded,
    SegueError,
    TakenOver,
    UnknownHistory,
)


@dataclass(frozen=True, slots=True)
class Received:
    """Not placed yet, or not again."""


@dataclass(frozen=True, slots=True)
class Placed:
    """The decode worker was asked for memory. It may already hold pages, unknown to the router."""

    placement: Placement


@dataclass(frozen=True, slots=True)
class Dispatched:
    """The decode worker holds memory, and the prompt was sent to the worker that computes it."""

    dispatched_at: float
    placement: Placement


@dataclass(frozen=True, slots=True)
class Streaming:
    dispatched_at: float
    first_token_at: float
    placement: Placement


@dataclass(frozen=True, slots=True)
class Over:
    outcome: str


TurnState: TypeAlias = Received | Placed | Dispatched | Streaming | Over


@dataclass(frozen=True, slots=True)
class PlacedOn:
    placement: Placement


@dataclass(frozen=True, slots=True)
class TicketTaken:
    at: float


@dataclass(frozen=True, slots=True)
class FirstToken:
    at: float


@dataclass(frozen=True, slots=True)
class Retried:
    """The workers failed, or refused the turn: it is placed again."""


@dataclass(frozen=True, slots=True)
class Ended:
    outcome: str


TurnChange: TypeAlias = PlacedOn | TicketTaken | FirstToken | Retried | Ended


def advance(state: TurnState, change: TurnChange) -> TurnState:
    """The next state. Raises IllegalTransition for a pair that is not listed here."""
    match state, change:
        case Received(), PlacedOn(placement):
            return Placed(placement)
        case Placed(placement), TicketTaken(at):
            return Dispatched(at, placement)
        case Dispatched(dispatched_at, placement), FirstToken(at):
            return Streaming(dispatched_at, at, placement)
        case ((Placed() | Dispatched() | Streaming()), Retried()):
            return Received()
        case ((Received() | Placed() | Dispatched() | Streaming()), Ended(outcome)):
            return Over(outcome)
        case Over(), Ended():
            # The first outcome stands, even if the client hangs up after the end.
            return state
        case _:
            raise IllegalTransition(f"{state} cannot take {change}")


def holders(state: TurnState) -> tuple[WorkerStatus, ...]:
    """The workers that may hold memory for the turn."""
    match state:
        case Placed(placement=placement):
            return (placement.decode,)
        case Dispatched(placement=placement) | Streaming(placement=placement):
            if placement.prefill is placement.decode:
                return (placement.decode,)
            return (placement.prefill, placement.decode)
        case _:
            return ()


def outcome_of(error: SegueError) -> str:
    """The metrics' outcome label for a turn that ended with an error."""
    if isinstance(error, InvalidRequest):
        return "invalid"
    if isinstance(error, DeadlineExceeded):
        return "deadline"
    if isinstance(error, TakenOver):
        return "disconnected"
    if isinstance(error, UnknownHistory):
        return "no_history"
    return "overloaded" if isinstance(error, Overloaded) else "failed"
