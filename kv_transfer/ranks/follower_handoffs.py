"""A follower's part of handoffs: it writes and checks the bytes of its own heads."""

from __future__ import annotations

from collections.abc import Sequence

from kv_transfer.layout import MemoryMap
from kv_transfer.ticket import Checksums, Ticket, TicketId
from kv_transfer.transport.cache_memory import CacheMemory, checksums_of
from kv_transfer.transport.transport import Transport
from kv_transfer.writing.outgoing import Outgoing, ShipResult
from kv_transfer.writing.writer import HandoffWriter
from segue.api.types import PageId, SlotId
from segue.parallel.rank import Rank


class FollowerHandoffs:
    """This rank's part of the worker's handoffs."""

    def __init__(
        self,
        transport: Transport,
        memory: CacheMemory,
        rank: Rank,
        memory_map: MemoryMap,
        verify_checksums: bool,
    ) -> None:
        """`memory_map`: the whole worker's."""
        self._transport = transport
        self._memory = memory
        self._rank = rank
        self._memory_map = memory_map
        self._outgoing: dict[TicketId, Outgoing] = {}
        self._writer = HandoffWriter(
            transport, memory_map, memory=memory, verify_checksums=verify_checksums, rank=rank
        )
        self.fence = self._writer.fence
        self.members_changed = self._writer.members_changed

    def start(
        self, ticket: Ticket, reader: MemoryMap, pages: Sequence[PageId], slot: SlotId
    ) -> None:
        self._outgoing[ticket.ticket_id] = self._writer.start(
            ticket, reader, source_pages=pages, source_slot=slot
        )

    def get(self, ticket_id: TicketId) -> Outgoing | None:
        """None once it has finished or stopped."""
        return self._outgoing.get(ticket_id)

    def all_ready(self, ticket_id: TicketId, num_pages: int) -> None:
        if outgoing := self.get(ticket_id):
            outgoing.all_ready(num_pages)

    async def finish(self, ticket_id: TicketId) -> ShipResult:
        """After a failure the leader stops the handoff."""
        result = await self._outgoing[ticket_id].finish()
        del self._outgoing[ticket_id]
        return result

    async def stop(self, ticket_id: TicketId, reason: str) -> None:
        if outgoing := self._outgoing.pop(ticket_id, None):
            await outgoing.stop(reason)

    def checksums(
        self, page_ids: Sequence[PageId], slot_id: SlotId, sources: Sequence[Rank]
    ) -> Checksums:
        return checksums_of(
            self._memory_map, page_ids, slot_id, self._memory, sources=sources, target=self._rank
        )

    def close(self) -> None:
        self._writer.close()
        self._transport.close()
