"""The states of one handoff on the writer's side; `handoff` has the reader's side.

    Shipping ──AllQueued──▶ Draining ──the last PieceArrived──▶ Shipped
        └───────┬─────────────┘ └──PieceFailed──▶ Failed
            StopAsked ──▶ Stopping, while a piece is moving ──▶ Stopped

A piece is a group of units of one field that became ready together. One thread moves pieces, so at
most one is moving. The source units must not change until a final state is reached. From then on
nothing is in flight and nothing will be. Pure, like the reader's side.
"""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.errors import IllegalTransition


@dataclass(frozen=True, slots=True)
class Shipping:
    """Pieces become ready while the prompt is computed. The source units must not change."""

    num_waiting: int = 0
    is_moving: bool = False


@dataclass(frozen=True, slots=True)
class AwaitingWrites:
    """The last piece is ready; not all have arrived."""

    num_waiting: int
    is_moving: bool


@dataclass(frozen=True, slots=True)
class Stopping:
    """No further write starts; one is in flight."""

    reason: str


@dataclass(frozen=True, slots=True)
class Shipped:
    """Final: everything arrived, nothing is in flight."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Final: a write failed, nothing is in flight."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Final: a stop was requested, nothing is in flight."""

    reason: str


WriterState = Shipping | AwaitingWrites | Stopping | Shipped | Failed | Stopped


@dataclass(frozen=True, slots=True)
class PieceQueued:
    pass


@dataclass(frozen=True, slots=True)
class PieceStarted:
    pass


@dataclass(frozen=True, slots=True)
class PieceArrived:
    """It arrived, or was left unwritten because of a stop. Either way nothing is in flight."""


@dataclass(frozen=True, slots=True)
class PieceFailed:
    reason: str


@dataclass(frozen=True, slots=True)
class AllQueued:
    pass


@dataclass(frozen=True, slots=True)
class StopAsked:
    reason: str


WriterEvent = PieceQueued | PieceStarted | PieceArrived | PieceFailed | AllQueued | StopAsked


def advance_writer(state: WriterState, event: WriterEvent) -> WriterState:
    match state:
        case Shipping():
            return _from_shipping(state, event)
        case AwaitingWrites():
            return _from_draining(state, event)
        case Stopping():
            return _from_stopping(state, event)
        case Shipped() if isinstance(event, PieceQueued):
            # A bug, not a late event: the piece would be missing from the handoff.
            raise _illegal(state, event)
        case Shipped() | Failed() | Stopped():
            return state


def _from_shipping(state: Shipping, event: WriterEvent) -> WriterState:
    match event, state:
        case PieceQueued(), Shipping(num_waiting, is_moving):
            return Shipping(num_waiting + 1, is_moving)
        case PieceStarted(), Shipping(num_waiting, False) if num_waiting:
            return Shipping(num_waiting - 1, True)
        case PieceArrived(), Shipping(num_waiting, True):
            return Shipping(num_waiting, False)
        case AllQueued(), Shipping(0, False):
            return Shipped()
        case AllQueued(), Shipping(num_waiting, is_moving):
            return AwaitingWrites(num_waiting, is_moving)
        case _:
            return _ended(state, event)


def _from_draining(state: AwaitingWrites, event: WriterEvent) -> WriterState:
    match event, state:
        case PieceStarted(), AwaitingWrites(num_waiting, False) if num_waiting:
            return AwaitingWrites(num_waiting - 1, True)
        case PieceArrived(), AwaitingWrites(0, True):
            return Shipped()
        case PieceArrived(), AwaitingWrites(num_waiting, True):
            return AwaitingWrites(num_waiting, False)
        case AllQueued(), _:
            return state
        case _:
            return _ended(state, event)


def _ended(state: Shipping | AwaitingWrites, event: WriterEvent) -> WriterState:
    match event:
        case PieceFailed(reason) if state.is_moving:
            return Failed(reason)
        case StopAsked(reason):
            return Stopping(reason) if state.is_moving else Stopped(reason)
        case _:
            raise _illegal(state, event)


def _from_stopping(state: Stopping, event: WriterEvent) -> WriterState:
    match event:
        case PieceArrived() | PieceFailed():
            return Stopped(state.reason)
        case PieceQueued() | AllQueued() | StopAsked():
            return state
        case _:
            raise _illegal(state, event)


def _illegal(state: object, event: object) -> IllegalTransition:
    return IllegalTransition(f"{state} cannot take {event}")
