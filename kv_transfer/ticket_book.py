"""The tickets that a reader has issued in this life of its process, and where each handoff is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from kv_transfer.handoff import Committed, Freed, Quarantined, ReaderState, Reserved, Verifying
from kv_transfer.ticket import Fence, PeerIdentity, Ticket, TicketId
from segue.errors import NotFound, StaleEpoch
from segue.types import Epoch, TurnId


@dataclass(slots=True, kw_only=True)
class Incoming:
    """One handoff as its reader sees it."""

    ticket: Ticket
    writer: PeerIdentity
    num_prompt_tokens: int
    expires_at: float
    state: ReaderState


class TicketBook:
    def __init__(self, reader: PeerIdentity) -> None:
        self._reader = reader
        self._handoffs: dict[TicketId, Incoming] = {}
        self._numbers = itertools.count(1)

    def __iter__(self) -> Iterator[Incoming]:
        """Over those that were there when the loop began: its body may forget them."""
        return iter(list(self._handoffs.values()))

    def new_ticket_id(self) -> TicketId:
        return TicketId(f"{self._reader.worker_id}-{self._reader.epoch}-{next(self._numbers)}")

    def add(self, handoff: Incoming) -> None:
        self._handoffs[handoff.ticket.ticket_id] = handoff

    def get(self, ticket_id: TicketId) -> Incoming | None:
        return self._handoffs.get(ticket_id)

    def find(self, ticket_id: TicketId, epoch: Epoch) -> Incoming:
        """Raises StaleEpoch, or NotFound."""
        self.require_epoch(ticket_id, epoch)
        if ticket_id not in self._handoffs:
            raise NotFound(f"ticket {ticket_id} is not known to {self._reader.worker_id}")
        return self._handoffs[ticket_id]

    def require_epoch(self, ticket_id: TicketId, epoch: Epoch) -> None:
        """Raises StaleEpoch when another life of the reader issued the ticket."""
        if epoch != self._reader.epoch:
            raise StaleEpoch(
                f"ticket {ticket_id} is of epoch {epoch} of {self._reader.worker_id}, "
                f"which is in epoch {self._reader.epoch}"
            )

    def live(self, turn_id: TurnId) -> Incoming | None:
        """The turn's handoff that somebody still wants: there is one at most."""
        for handoff in self._handoffs.values():
            if handoff.ticket.turn_id == turn_id and isinstance(
                handoff.state, Reserved | Verifying
            ):
                return handoff
        return None

    def quarantined(self) -> list[Fence]:
        return [
            Fence(ticket_id=ticket_id, writer=handoff.writer)
            for ticket_id, handoff in self._handoffs.items()
            if isinstance(handoff.state, Quarantined)
        ]

    def forget(self, handoff: Incoming) -> None:
        del self._handoffs[handoff.ticket.ticket_id]

    def next_expiry(self) -> float | None:
        """When the first of the reserved tickets expires."""
        return min(
            (h.expires_at for h in self._handoffs.values() if isinstance(h.state, Reserved)),
            default=None,
        )

    def counts(self) -> dict[str, int]:
        """How many handoffs are in each state, by its name."""
        kinds = (Reserved, Verifying, Quarantined, Committed, Freed)
        return {
            kind.__name__.lower(): sum(isinstance(h.state, kind) for h in self._handoffs.values())
            for kind in kinds
        }
