"""The tickets that a reader has issued in this life of its process, and where each handoff is.

A ticket costs the same whatever came before it: handoffs are found by ticket, turn and writer, the
next to expire is on top of a heap, and one that has ended leaves no more than a line that says how,
for whoever still names it.
"""

from __future__ import annotations

import heapq
import itertools
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from cachetools import FIFOCache

from kv_transfer.handoff import Committed, Freed, Quarantined, ReaderState, Reserved, Verifying
from kv_transfer.ticket import Fence, PeerIdentity, Ticket, TicketId
from segue.errors import NotFound, StaleEpoch
from segue.types import Epoch, TurnId, WorkerId

MAX_ENDED = 4096
"""Of how many ended tickets it is remembered how they ended. For messages only: late news of a
ticket that is forgotten gets the same answer, without the reason."""

_LIVE = (Reserved, Verifying, Quarantined)


@dataclass(slots=True, kw_only=True, eq=False)
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
        self._numbers, self._serials = itertools.count(1), itertools.count(1)
        self._handoffs: dict[TicketId, Incoming] = {}
        """Those that have not ended."""
        self._wanted: dict[TurnId, Incoming] = {}
        self._quarantined: dict[TicketId, Incoming] = {}
        self._by_writer: dict[WorkerId, dict[TicketId, Incoming]] = {}
        self._counts: Counter[type[ReaderState]] = Counter()
        # Also holds entries of tickets that were used in time: they are skipped when they come up.
        self._expiries: list[tuple[float, int, Incoming]] = []
        self._ended: FIFOCache[TicketId, str] = FIFOCache(MAX_ENDED)

    def __len__(self) -> int:
        return len(self._handoffs)

    def new_ticket_id(self) -> TicketId:
        """Whoever names it has been told: it cannot be guessed from those before it."""
        reader = self._reader
        secret = secrets.token_hex(16)
        return TicketId(f"{reader.worker_id}-{reader.epoch}-{next(self._numbers)}-{secret}")

    def add(self, handoff: Incoming) -> bool:
        """A new one, reserved. Returns whether it is the first to expire."""
        ticket = handoff.ticket
        self._handoffs[ticket.ticket_id] = handoff
        self._wanted[ticket.turn_id] = handoff
        self._by_writer.setdefault(handoff.writer.worker_id, {})[ticket.ticket_id] = handoff
        self._counts[type(handoff.state)] += 1
        heapq.heappush(self._expiries, (handoff.expires_at, next(self._serials), handoff))
        self._compact()
        return self._expiries[0][2] is handoff

    def enter(self, handoff: Incoming, state: ReaderState) -> None:
        """The handoff is in another state from now on."""
        self._counts[type(handoff.state)] -= 1
        handoff.state = state
        ticket = handoff.ticket
        is_wanted = isinstance(state, Reserved | Verifying)
        if not is_wanted and self._wanted.get(ticket.turn_id) is handoff:
            del self._wanted[ticket.turn_id]
        if isinstance(state, Quarantined):
            self._quarantined[ticket.ticket_id] = handoff
        if isinstance(state, Committed | Freed):
            self._forget(handoff, state)
        else:
            self._counts[type(state)] += 1

    def get(self, ticket_id: TicketId) -> Incoming | None:
        """None for one that has ended."""
        return self._handoffs.get(ticket_id)

    def find(self, ticket_id: TicketId, epoch: Epoch) -> Incoming:
        """Raises StaleEpoch, or NotFound for one that has ended or never was."""
        self.require_epoch(ticket_id, epoch)
        if ticket_id in self._ended:
            raise NotFound(f"ticket {ticket_id} {self._ended[ticket_id]}; reserve again")
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
        return self._wanted.get(turn_id)

    def turns(self) -> set[TurnId]:
        """Of the handoffs that have not ended."""
        return {handoff.ticket.turn_id for handoff in self._handoffs.values()}

    def of_writers(self, worker_ids: Iterator[WorkerId]) -> list[Incoming]:
        """Those that have not ended, of these writers."""
        return [
            handoff
            for worker_id in worker_ids
            for handoff in self._by_writer.get(worker_id, {}).values()
        ]

    def quarantined(self) -> list[Fence]:
        return [
            Fence(ticket_id=ticket_id, writer=handoff.writer)
            for ticket_id, handoff in self._quarantined.items()
        ]

    def due(self, now: float) -> Iterator[Incoming]:
        """The reserved ones whose time is over, each once. The body of the loop may end them."""
        while (expires_at := self.next_expiry()) is not None and expires_at <= now:
            yield heapq.heappop(self._expiries)[2]

    def next_expiry(self) -> float | None:
        """When the first of the reserved tickets expires."""
        while self._expiries:
            expires_at, _, handoff = self._expiries[0]
            if isinstance(handoff.state, Reserved):
                return expires_at
            heapq.heappop(self._expiries)
        return None

    def counts(self) -> dict[str, int]:
        """How many handoffs are in each state that is not final, by its name."""
        return {kind.__name__.lower(): self._counts[kind] for kind in _LIVE}

    def _forget(self, handoff: Incoming, end: Committed | Freed) -> None:
        ticket_id, writer_id = handoff.ticket.ticket_id, handoff.writer.worker_id
        del self._handoffs[ticket_id]
        self._quarantined.pop(ticket_id, None)
        of_writer = self._by_writer[writer_id]
        del of_writer[ticket_id]
        if not of_writer:
            del self._by_writer[writer_id]
        self._ended[ticket_id] = (
            f"was given up: {end.reason}" if isinstance(end, Freed) else "has been used"
        )

    def _compact(self) -> None:
        if len(self._expiries) > 2 * self._counts[Reserved] + 64:
            self._expiries = [e for e in self._expiries if isinstance(e[2].state, Reserved)]
            heapq.heapify(self._expiries)
