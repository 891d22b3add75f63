"""The writer's side of all handoffs of a process: starts them, and answers fences."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from cachetools import FIFOCache

from kv_transfer.layout import MemoryMap, require_same_layout
from kv_transfer.ticket import Ticket, TicketId
from kv_transfer.transport.cache_memory import CacheMemory, HostMemory
from kv_transfer.transport.transport import Transport
from kv_transfer.writing.lane import Lane
from kv_transfer.writing.outgoing import Outgoing, ShipLimits, ShippingTools
from kv_transfer.writing.plan import UnitRoute
from segue.api.errors import NotFound, StaleEpoch
from segue.api.types import Epoch, PageId, SlotId, WorkerId
from segue.parallel.rank import Rank

MAX_ENDED_TICKETS = 65536
"""How many used tickets are remembered, and how many that were fenced before use: none may be used
again."""


class HandoffWriter:
    """One per process, with the one thread that moves bytes. Any thread may call its methods.

    `memory_map` describes our cache, registered with `transport`; both must outlive the writer.
    """

    def __init__(
        self,
        transport: Transport,
        memory_map: MemoryMap,
        limits: ShipLimits = ShipLimits(),  # noqa: B008  (frozen)
        *,
        memory: CacheMemory = HostMemory(),  # noqa: B008  (has no state)
        verify_checksums: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        rank: Rank | None = None,
    ) -> None:
        """`rank`: this process's; by default the first of those in `memory_map`."""
        self._rank = rank or memory_map.ranks[0]
        self.epoch = memory_map.epoch
        self._memory_map = memory_map
        self._tools = ShippingTools(
            lane=Lane("shipping", max_waiting_bytes=limits.max_waiting_bytes),
            transport=transport,
            limits=limits,
            clock=clock,
            memory=memory,
            computes_checksums=verify_checksums,
        )
        self._active: dict[TicketId, Outgoing] = {}
        self._alive: Mapping[WorkerId, Epoch] | None = None
        self._written: dict[str, MemoryMap] = {}
        """By segment: readers to which there may be connections from here."""
        self._is_closed = False
        # Kept separately, so that fences cannot push out used tickets.
        self._ended: FIFOCache[TicketId, None] = FIFOCache(MAX_ENDED_TICKETS)
        self._fenced: FIFOCache[TicketId, None] = FIFOCache(MAX_ENDED_TICKETS)

    def start(
        self,
        ticket: Ticket,
        reader_map: MemoryMap,
        *,
        source_pages: Sequence[PageId],
        source_slot: SlotId,
    ) -> Outgoing:
        """Starts to ship into `ticket`. `reader_map` is the result of `Peers.meet`.

        `source_pages` are all pages of the prompt in sequence order, the resident ones included.
        They and the slot must not be written or freed until the returned handoff's `finish` or
        `stop` has returned, except that a page may be written before it is named in `layer_ready`.
        Raises NotFound if the ticket was used or fenced, StaleEpoch if the map is of another life,
        LayoutMismatch if the layouts differ, InvalidRequest if the pages do not match the ticket.
        """
        if reader_map.epoch != ticket.reader.epoch:
            raise StaleEpoch(
                f"ticket {ticket.ticket_id} is of epoch {ticket.reader.epoch} of "
                f"{ticket.reader.worker_id}, which is in epoch {reader_map.epoch}"
            )
        require_same_layout(self._memory_map, reader_map)
        route = UnitRoute(
            ticket=ticket,
            source=self._memory_map,
            target=reader_map,
            source_pages=tuple(source_pages),
            source_slot=source_slot,
            rank=self._rank,
        )
        ticket_id = ticket.ticket_id
        with self._tools.lane.changed:
            if any(ticket_id in known for known in (self._ended, self._fenced, self._active)):
                raise NotFound(f"ticket {ticket_id} was used or fenced; reserve again")
            outgoing = Outgoing(route, self._tools, on_end=lambda: self._end(ticket_id))
            self._active[ticket_id] = outgoing
            for memory in reader_map.memories:
                self._written[memory.segment] = reader_map
            return outgoing

    async def fence(self, ticket_id: TicketId) -> None:
        """Returns when no write for the ticket is in flight and none will ever start."""
        with self._tools.lane.changed:
            outgoing = self._active.get(ticket_id)
            if outgoing is None:
                self._fenced[ticket_id] = None
                return
        await outgoing.stop("the reader gave up")

    def members_changed(self, alive: Mapping[WorkerId, Epoch]) -> None:
        """Takes the cluster's members. Connections to other processes are closed once no handoff to
        them is open: a transport may keep connections to a dead process forever."""
        with self._tools.lane.changed:
            self._alive = dict(alive)
            self._disconnect()

    @property
    def is_shipping(self) -> bool:
        return bool(self._active)

    def close(self) -> None:
        """Stops all handoffs and ends the thread. Blocks for at most one batch."""
        with self._tools.lane.changed:
            self._is_closed = True
            for outgoing in list(self._active.values()):
                outgoing.ask_to_stop("the worker is closing")
        self._tools.lane.close()

    def _end(self, ticket_id: TicketId) -> None:
        del self._active[ticket_id]
        self._ended[ticket_id] = None
        self._disconnect()

    def _disconnect(self) -> None:
        """Closes connections to readers that are gone. The caller must hold the lane's
        condition."""
        if self._is_closed or self._alive is None:
            return
        busy = {one for outgoing in self._active.values() for one in outgoing.target_segments}
        for segment, reader in list(self._written.items()):
            is_alive = self._alive.get(reader.worker_id) == reader.epoch
            if not is_alive and segment not in busy:
                del self._written[segment]
                self._tools.lane.put(partial(self._tools.transport.disconnect, segment), 0)
