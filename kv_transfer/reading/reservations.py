"""Reservations, their units, and the book of all reservations in this life of a reader.

The cost of a ticket does not grow with the number of earlier ones: handoffs are indexed by ticket
and turn, a heap yields the next to expire, and an ended handoff leaves only its outcome, for late
messages.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import secrets
from collections.abc import Callable, Iterator
from typing import Self

from cachetools import FIFOCache

from kv_transfer.handoff import (
    Committed,
    Freed,
    Quarantined,
    ReaderState,
    Reserved,
    Units,
    Verifying,
)
from kv_transfer.ticket import Arrival, Fence, PeerIdentity, Ticket, TicketId
from segue.api.errors import Cancelled, NotFound, SegueError, StaleEpoch
from segue.api.types import Epoch, TurnId
from segue.cache.memory import UnitPools
from segue.cache.unit_pool import UnitState

MAX_ENDED = 4096
"""How many ended tickets are remembered with their reasons. Only for error messages: a late message
about a forgotten ticket gets the same error, without the reason."""


class Reservation:
    """Memory reserved for one handoff. It ends with an `Arrival` or an error.

        with reader.reserve(...) as reservation:
            ...  # send `reservation.ticket` to the writer
            arrival = await reservation.arrived()

    Leaving the block without taking the arrival gives the handoff up. Its units become free once
    the writer has stopped.
    """

    def __init__(
        self,
        ticket: Ticket,
        state: Reserved,
        *,
        writer: PeerIdentity,
        expires_at: float,
        give_up: Callable[[Reservation, SegueError], None],
    ) -> None:
        self.ticket = ticket
        self.state: ReaderState = state
        self.writer = writer
        self.expires_at = expires_at
        self._give_up = give_up
        self._end: Arrival | SegueError | None = None
        self._has_ended = asyncio.Event()
        self._is_taken = False

    async def arrived(self) -> Arrival:
        """Waits for the commit. The caller owns the returned units.

        Raises the error passed to `give_up`, or TransferFailed if the handoff was lost.
        """
        await self._has_ended.wait()
        if isinstance(self._end, Arrival):
            self._is_taken = True
            return self._end
        assert self._end is not None, "the event is set with it"
        raise self._end

    def give_up(self, error: SegueError) -> None:
        """Makes `arrived` raise `error`, unless the units were taken or the handoff was lost."""
        self._give_up(self, error)

    def end(self, end: Arrival | SegueError) -> None:
        """Called by the reader. An arrival may still be given up until it is taken."""
        self._end = end
        self._has_ended.set()

    @property
    def untaken(self) -> Arrival | None:
        """The arrival, if it has not been taken yet."""
        return self._end if isinstance(self._end, Arrival) and not self._is_taken else None

    @property
    def failure(self) -> SegueError | None:
        """The error with which the handoff was lost or given up."""
        return self._end if isinstance(self._end, SegueError) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        why = f"{type(error).__name__}: {error}" if error else "nothing waits for it"
        self.give_up(Cancelled(f"turn {self.ticket.turn_id} was given up: {why}"))


def follow(pools: UnitPools, before: ReaderState, after: ReaderState) -> None:
    """Moves a handoff's units after a transition.

    Reserved, Verifying   reserved units        Committed   the receiver's working units
    Quarantined           quarantined units     Freed       free units
    """
    match before, after:
        case Reserved(Units(pages, slot)), Quarantined():
            pools.move(pages, [slot], UnitState.RESERVED, UnitState.QUARANTINED)
        case Verifying(Units(pages, slot)), Committed():
            pools.move(pages, [slot], UnitState.RESERVED, UnitState.WORKING)
        case ((Reserved(Units(pages, slot)) | Verifying(Units(pages, slot))), Freed()):
            pools.give_back(pages, [slot], UnitState.RESERVED)
        case Quarantined(Units(pages, slot)), Freed():
            pools.give_back(pages, [slot], UnitState.QUARANTINED)


class TicketBook:
    def __init__(self, reader: PeerIdentity) -> None:
        self._reader = reader
        self._numbers, self._serials = itertools.count(1), itertools.count(1)
        self._handoffs: dict[TicketId, Reservation] = {}
        """Handoffs that have not ended."""
        self._wanted: dict[TurnId, Reservation] = {}
        # Also has entries of tickets that were used in time; they are skipped when they are due.
        self._expiries: list[tuple[float, int, Reservation]] = []
        self._ended: FIFOCache[TicketId, str] = FIFOCache(MAX_ENDED)

    def __len__(self) -> int:
        return len(self._handoffs)

    def new_ticket_id(self) -> TicketId:
        """Cannot be guessed from earlier ids: only a process that received the id knows it."""
        reader = self._reader
        secret = secrets.token_hex(16)
        return TicketId(f"{reader.worker_id}-{reader.epoch}-{next(self._numbers)}-{secret}")

    def add(self, handoff: Reservation) -> bool:
        """Adds a reserved handoff. Returns whether it is the next to expire."""
        ticket = handoff.ticket
        self._handoffs[ticket.ticket_id] = handoff
        self._wanted[ticket.turn_id] = handoff
        heapq.heappush(self._expiries, (handoff.expires_at, next(self._serials), handoff))
        self._compact()
        return self._expiries[0][2] is handoff

    def enter(self, handoff: Reservation, state: ReaderState) -> None:
        """Moves the handoff to another state."""
        handoff.state = state
        ticket = handoff.ticket
        is_wanted = isinstance(state, Reserved | Verifying)
        if not is_wanted and self._wanted.get(ticket.turn_id) is handoff:
            del self._wanted[ticket.turn_id]
        if isinstance(state, Committed | Freed):
            self._forget(handoff, state)

    def get(self, ticket_id: TicketId) -> Reservation | None:
        """None if the handoff has ended."""
        return self._handoffs.get(ticket_id)

    def find(self, ticket_id: TicketId, epoch: Epoch) -> Reservation:
        """Raises StaleEpoch, or NotFound if the handoff has ended or never existed."""
        self.require_epoch(ticket_id, epoch)
        if ticket_id in self._ended:
            raise NotFound(f"ticket {ticket_id} {self._ended[ticket_id]}; reserve again")
        if ticket_id not in self._handoffs:
            raise NotFound(f"ticket {ticket_id} is not known to {self._reader.worker_id}")
        return self._handoffs[ticket_id]

    def require_epoch(self, ticket_id: TicketId, epoch: Epoch) -> None:
        """Raises StaleEpoch if another life of the reader issued the ticket."""
        if epoch != self._reader.epoch:
            raise StaleEpoch(
                f"ticket {ticket_id} is of epoch {epoch} of {self._reader.worker_id}, "
                f"which is in epoch {self._reader.epoch}"
            )

    def live(self, turn_id: TurnId) -> Reservation | None:
        """The turn's handoff that is still wanted; there is at most one."""
        return self._wanted.get(turn_id)

    def turns(self) -> set[TurnId]:
        """The turns of handoffs that have not ended."""
        return {handoff.ticket.turn_id for handoff in self._handoffs.values()}

    def handoffs(self) -> list[Reservation]:
        """The handoffs that have not ended."""
        return list(self._handoffs.values())

    def quarantined(self) -> list[Fence]:
        return [
            Fence(ticket_id=ticket_id, writer=handoff.writer)
            for ticket_id, handoff in self._handoffs.items()
            if isinstance(handoff.state, Quarantined)
        ]

    def due(self, now: float) -> Iterator[Reservation]:
        """Yields each reserved handoff whose ticket has expired, once. The caller may end it."""
        while (expires_at := self.next_expiry()) is not None and expires_at <= now:
            yield heapq.heappop(self._expiries)[2]

    def next_expiry(self) -> float | None:
        """When the next reserved ticket expires."""
        while self._expiries:
            expires_at, _, handoff = self._expiries[0]
            if isinstance(handoff.state, Reserved):
                return expires_at
            heapq.heappop(self._expiries)
        return None

    def _forget(self, handoff: Reservation, end: Committed | Freed) -> None:
        ticket_id = handoff.ticket.ticket_id
        del self._handoffs[ticket_id]
        self._ended[ticket_id] = (
            f"was given up: {end.reason}" if isinstance(end, Freed) else "has been used"
        )

    def _compact(self) -> None:
        if len(self._expiries) > 2 * len(self._handoffs) + 64:
            self._expiries = [e for e in self._expiries if isinstance(e[2].state, Reserved)]
            heapq.heapify(self._expiries)
