"""A handoff's writer, and the messages about handoffs, for tests that reorder them at will."""

from __future__ import annotations

from dataclasses import dataclass, field

from kv_transfer.ticket import Fence, PeerIdentity, Ticket, TicketId
from kv_transfer.writing.shipment import (
    AwaitingWrites,
    Failed,
    PieceArrived,
    PieceFailed,
    PieceQueued,
    PieceStarted,
    Shipped,
    Shipping,
    Stopped,
    Stopping,
    WriterEvent,
    WriterState,
)
from segue.api.types import Epoch, WorkerId


@dataclass(eq=False)
class Writing:
    """One handoff as its writer sees it."""

    ticket: Ticket
    writer: PeerIdentity
    state: WriterState = field(default_factory=Shipping)
    fences: list[Fence] = field(default_factory=list)
    """Those that wait for its end."""

    @property
    def is_over(self) -> bool:
        return isinstance(self.state, Shipped | Failed | Stopped)

    @property
    def is_moving(self) -> bool:
        if isinstance(self.state, Shipping | AwaitingWrites):
            return self.state.is_moving
        return isinstance(self.state, Stopping)

    def may_take(self, event: WriterEvent) -> bool:
        match event:
            case PieceQueued():
                return isinstance(self.state, Shipping)
            case PieceStarted():
                return (
                    isinstance(self.state, Shipping | AwaitingWrites)
                    and not self.state.is_moving
                    and self.state.num_waiting > 0
                )
            case PieceArrived() | PieceFailed():
                return self.is_moving
            case _:
                return not self.is_over


@dataclass(frozen=True)
class Commit:
    ticket: Ticket
    is_intact: bool


@dataclass(frozen=True)
class Abort:
    ticket: Ticket


@dataclass(frozen=True)
class Fenced:
    ticket_id: TicketId


@dataclass(frozen=True)
class Refused:
    """Nothing listens at the writer's address."""

    ticket_id: TicketId


@dataclass(frozen=True)
class View:
    alive: tuple[tuple[WorkerId, Epoch], ...]


Message = Commit | Abort | Fence | Fenced | Refused | View
