"""The reader's side of all handoffs of a process: reserves memory, verifies, commits, fences.

The event loop owns a `HandoffReader` and both unit pools: no method may be called from another
thread. `handoff` defines the transitions; this module carries them out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from kv_transfer.handoff import (
    BytesDiffered,
    BytesMatched,
    Committed,
    Expired,
    Freed,
    GivenUp,
    Quarantined,
    ReaderEvent,
    ReaderState,
    Reserved,
    Units,
    Verifying,
    WriterAborted,
    WriterCommitted,
    WriterDied,
    WriterFenced,
    advance_reader,
)
from kv_transfer.layout import MemoryMap
from kv_transfer.ranks.leading import ArrivedBytes
from kv_transfer.reading.reservations import Reservation, TicketBook, follow
from kv_transfer.ticket import (
    MAX_LIFETIME_S,
    Arrival,
    Checksums,
    Fence,
    PeerIdentity,
    Ticket,
    TicketId,
    new_seal_key,
    sealed,
)
from kv_transfer.transport.cache_memory import CacheMemory, HostMemory, difference
from segue.api.errors import InvalidRequest, NotFound, SegueError, TransferFailed
from segue.api.turn import PrefillOutcome
from segue.api.types import Epoch, TurnId, WorkerId
from segue.cache.memory import UnitPools
from segue.cache.unit_pool import UnitState, UntilKept
from segue.parallel.followers import Followers

logger = logging.getLogger(__name__)


def _nothing(*_: object) -> None:
    pass


class HandoffReader:
    """One per process that others write to.

    `memory_map` describes our cache; the arrays behind it must outlive the reader.
    """

    def __init__(
        self,
        *,
        pools: UnitPools,
        memory_map: MemoryMap,
        address: str,
        memory: CacheMemory = HostMemory(),  # noqa: B008  (has no state)
        verify_checksums: bool = True,
        followers: Followers | None = None,
        require_writer: Callable[[PeerIdentity], None] = _nothing,
        freed: Callable[[], None] = _nothing,
        stepped: Callable[[str, str], None] = _nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`require_writer` raises if a writer must not get a ticket (see `Members`). `freed` is
        called when units become free, `stepped` on each transition, with the names of the old and
        the new state. Neither may call the reader.
        """
        self.memory_map = memory_map
        self.ticket_key = new_seal_key()
        self._require_writer = require_writer
        self._identity = PeerIdentity(
            worker_id=memory_map.worker_id, epoch=memory_map.epoch, address=address
        )
        self._pools = pools
        self._arrived = ArrivedBytes(memory_map, memory, followers)
        self.met = self._arrived.met
        self._verify_checksums = verify_checksums
        self._freed = freed
        self._stepped = stepped
        self._clock = clock
        self._book = TicketBook(self._identity)
        self._members: Mapping[WorkerId, Epoch] | None = None
        self._changed = asyncio.Event()

    def reserve(
        self,
        turn_id: TurnId,
        *,
        num_prompt_tokens: int,
        extra_tokens: int,
        writer: PeerIdentity,
        lifetime_s: float,
        resident_tokens: int = 0,
    ) -> Reservation:
        """Reserves a slot, and pages for the prompt after the resident tokens (which end at a page
        boundary) and for `extra_tokens` more.

        The ticket is valid for at most `MAX_LIFETIME_S`. Raises Overloaded if there is no room now,
        InvalidRequest if there never will be or if the turn already has a live ticket, Unavailable
        if the writer is not in the cluster.
        """
        self._require_writer(writer)
        lifetime_s = min(lifetime_s, MAX_LIFETIME_S)
        layout = self.memory_map.layout
        num_resident = resident_tokens // layout.page_tokens
        num_prompt_pages = layout.num_pages_for(num_prompt_tokens) - num_resident
        num_pages = layout.num_pages_for(num_prompt_tokens + extra_tokens)
        if num_pages > self._pools.pages.total:
            raise InvalidRequest(
                f"{num_prompt_tokens} + {extra_tokens} tokens need {num_pages} pages, "
                f"{self._identity.worker_id} has {self._pools.pages.total}"
            )
        if self._book.live(turn_id) is not None:
            raise InvalidRequest(f"turn {turn_id} has a reservation here; release it first")
        with UntilKept() as taken:
            pages, (slot,) = self._pools.take(
                num_pages - num_resident, 1, UnitState.RESERVED, owner=turn_id
            )
            taken.callback(self._pools.give_back, pages, [slot], UnitState.RESERVED)
            plain = Ticket(
                ticket_id=self._book.new_ticket_id(),
                turn_id=turn_id,
                reader=self._identity,
                resident_tokens=resident_tokens,
                page_ids=pages[:num_prompt_pages],
                slot_id=slot,
                expires_in_s=lifetime_s,
            )
            ticket = sealed(plain, self.ticket_key)
            reservation = Reservation(
                ticket,
                Reserved(Units(pages, slot)),
                writer=writer,
                expires_at=self._clock() + lifetime_s,
                give_up=self._give_up,
            )
            expires_first = self._book.add(reservation)
            taken.keep()
        if expires_first:
            self._changed.set()
        return reservation

    async def commit(
        self,
        ticket_id: TicketId,
        epoch: Epoch,
        checksums: Checksums,
        outcome: PrefillOutcome | None = None,
    ) -> None:
        """Handles the writer's commit: verifies in a thread, then ends the reservation's wait.

        Raises StaleEpoch, NotFound if the ticket is unknown or no longer wanted, TransferFailed if
        the bytes differ from those that were sent. In each case, and after a cancellation, the
        units are free or will be.
        """
        self.expire_due()
        handoff = self._book.find(ticket_id, epoch)
        match handoff.state:
            case Reserved(units) | Quarantined(units):
                state = self._step(handoff, WriterCommitted())
            case _:
                raise NotFound(f"ticket {ticket_id} has been used; reserve again")
        if isinstance(state, Verifying):
            state = await self._verify(handoff, checksums)
        if isinstance(state, Freed):
            raise NotFound(f"ticket {ticket_id} was given up: {state.reason}")
        handoff.end(Arrival(pages=units.pages, slot=units.slot, outcome=outcome))

    def abort(self, ticket_id: TicketId, epoch: Epoch, reason: str) -> None:
        """The writer has stopped. An abort of an unknown or ended ticket is late, not an error."""
        self._book.require_epoch(ticket_id, epoch)
        self._step_if_known(ticket_id, WriterAborted(reason))

    def expire_due(self) -> None:
        """Gives up handoffs whose tickets have expired."""
        for handoff in self._book.due(self._clock()):
            self._step(handoff, Expired())

    def members_changed(self, alive: Mapping[WorkerId, Epoch]) -> None:
        """Takes the cluster's members. A new life of a writer proves that its old one has ended.

        A launcher restarts a worker only after its process has ended, which closes its
        connections. A worker that is merely absent may still write: see `writer_unreachable`.
        """
        self._members = dict(alive)
        for handoff in self._book.handoffs():
            writer = handoff.writer
            if alive.get(writer.worker_id, writer.epoch) > writer.epoch:
                self._step(handoff, WriterDied())

    def writer_unreachable(self, ticket_id: TicketId) -> None:
        """The writer's address refuses connections. If this life of it is not a member either, it
        is dead: the cluster has lost it, or has another life. That one may have a smaller epoch if
        the clock was set back and the router has restarted."""
        handoff = self._book.get(ticket_id)
        if handoff is None or self._members is None:
            return
        if self._members.get(handoff.writer.worker_id) != handoff.writer.epoch:
            self._step(handoff, WriterDied())

    def fence_pending(self) -> list[Fence]:
        """Tickets in quarantine, whose writers must be asked to stop."""
        return self._book.quarantined()

    def is_quarantined(self, ticket_id: TicketId) -> bool:
        handoff = self._book.get(ticket_id)
        return handoff is not None and isinstance(handoff.state, Quarantined)

    def fenced(self, ticket_id: TicketId) -> None:
        """The writer answered the fence: it has stopped, or a new life answered."""
        self._step_if_known(ticket_id, WriterFenced())

    async def something_due(self) -> None:
        """Returns when a ticket expires or enters quarantine, or when a new ticket is the next to
        expire. Only for `Fencer`.
        """
        self._changed.clear()
        expires_at = self._book.next_expiry()
        due_in_s = None if expires_at is None else max(0.0, expires_at - self._clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(due_in_s):
                await self._changed.wait()

    def owners(self) -> set[TurnId]:
        """Turns that own reserved or quarantined units here."""
        return self._book.turns()

    async def _verify(self, handoff: Reservation, checksums: Checksums) -> ReaderState:
        """Leaves Verifying. Raises TransferFailed if the bytes differ from those that were sent."""
        try:
            problem = await self._problem(handoff.ticket, handoff.writer.worker_id, checksums)
        except BaseException:
            self._step(handoff, GivenUp("the commit was cancelled"))
            raise
        if problem:
            self._step(handoff, BytesDiffered(problem))
            raise TransferFailed(f"turn {handoff.ticket.turn_id}: {problem}")
        return self._step(handoff, BytesMatched())

    async def _problem(self, ticket: Ticket, writer: WorkerId, sent: Checksums) -> str:
        if not self._verify_checksums:
            return ""
        arrived = await asyncio.to_thread(self._arrived.checksums, ticket, writer)
        return difference(sent, arrived)

    def _give_up(self, reservation: Reservation, error: SegueError) -> None:
        if (arrival := reservation.untaken) is not None:
            self._pools.give_back(arrival.pages, [arrival.slot])
            reservation.end(error)
            self._freed()
        elif not isinstance(reservation.state, Committed):
            self._step(reservation, GivenUp(str(error)), error)

    def _step_if_known(self, ticket_id: TicketId, event: ReaderEvent) -> None:
        """An event for a forgotten ticket is late, and changes nothing."""
        handoff = self._book.get(ticket_id)
        if handoff is not None:
            self._step(handoff, event)

    def _step(
        self, handoff: Reservation, event: ReaderEvent, error: SegueError | None = None
    ) -> ReaderState:
        """`error`: ends the reservation if this step loses the handoff."""
        before, after = handoff.state, advance_reader(handoff.state, event)
        if before == after:
            return after
        self._book.enter(handoff, after)
        follow(self._pools, before, after)
        self._stepped(type(before).__name__.lower(), type(after).__name__.lower())
        if isinstance(after, Quarantined | Freed) and not isinstance(before, Quarantined):
            turn_id = handoff.ticket.turn_id
            logger.info("handoff lost", extra={"turn_id": turn_id, "reason": after.reason})
            lost = f"the prompt of turn {turn_id} did not arrive: {after.reason}"
            handoff.end(error or TransferFailed(lost))
        if isinstance(after, Freed):
            self._freed()
        if isinstance(after, Quarantined):
            self._changed.set()
        return after
