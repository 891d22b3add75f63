"""A follower's part of handoffs: it writes and checks the bytes of its own heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kv_transfer.layout import MemoryMap
from kv_transfer.ticket import Checksums, Ticket, TicketId
from kv_transfer.transport.cache_memory import CacheMemory, checksums_of
from kv_transfer.transport.transport import Transport
from kv_transfer.writing.outgoing import Outgoing, ShipResult
from kv_transfer.writing.writer import HandoffWriter
from segue.api.types import Epoch, PageId, SlotId, WorkerId
from segue.parallel.rank import Rank


class FollowerHandoffs:
    """This rank's part of the worker's handoffs."""

    def __init__(self, transport: Transport, memory: CacheMemory, rank: Rank) -> None:
        self._transport = transport
        self._memory = memory
        self._rank = rank
        self._outgoing: dict[TicketId, Outgoing] = {}
        self._computes_checksums = True
        self._writer: HandoffWriter | None = None
        self._memory_map: MemoryMap | None = None

    def serve(self, memory_map: MemoryMap, verify_checksums: bool) -> None:
        """`memory_map`: the whole worker's."""
        self._memory_map = memory_map
        self._writer = HandoffWriter(
            self._transport,
            memory_map,
            memory=self._memory,
            verify_checksums=verify_checksums,
            rank=self._rank,
        )

    @property
    def writer(self) -> HandoffWriter:
        assert self._writer is not None, "the leader sends the memory map first"
        return self._writer

    def start(
        self, ticket: Ticket, reader: MemoryMap, pages: Sequence[PageId], slot: SlotId
    ) -> None:
        self._outgoing[ticket.ticket_id] = self.writer.start(
            ticket, reader, source_pages=pages, source_slot=slot
        )

    def get(self, ticket_id: TicketId) -> Outgoing | None:
        """None once it was finished or stopped."""
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

    async def fence(self, ticket_id: TicketId) -> None:
        await self.writer.fence(ticket_id)

    def members_changed(self, alive: Mapping[WorkerId, Epoch]) -> None:
        self.writer.members_changed(alive)

    def checksums(
        self, page_ids: Sequence[PageId], slot_id: SlotId, sources: Sequence[Rank]
    ) -> Checksums:
        assert self._memory_map is not None
        return checksums_of(
            self._memory_map,
            page_ids,
            slot_id,
            self._memory.crcs,
            sources=sources,
            target=self._rank,
        )

    def close(self) -> None:
        self.writer.close()
        self._transport.close()
