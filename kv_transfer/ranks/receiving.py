"""The bytes that arrived in a reader's memory, on all of its ranks."""

from __future__ import annotations

from collections.abc import Sequence

from kv_transfer.layout import MemoryMap
from kv_transfer.ticket import Checksums, Ticket
from kv_transfer.transport.cache_memory import CacheMemory, checksums_of
from segue.api.types import WorkerId
from segue.parallel.followers import Followers
from segue.parallel.rank import FIRST_OF_ONE, Rank


class ArrivedBytes:
    """Knows into how many parts a writer splits what it sends."""

    def __init__(
        self, memory_map: MemoryMap, memory: CacheMemory, followers: Followers | None
    ) -> None:
        """`memory` is that of rank 0, and of this process."""
        self._memory_map = memory_map
        self._memory = memory
        self._followers = followers
        self._ranks_of: dict[WorkerId, Sequence[Rank]] = {}

    def met(self, writer: MemoryMap) -> None:
        """The writer has asked where this memory is, as it does before it sends."""
        self._ranks_of[writer.worker_id] = writer.ranks

    def checksums(self, ticket: Ticket, writer: WorkerId) -> Checksums:
        """Of the ticket's units, on all ranks. Blocks."""
        sources = self._ranks_of.get(writer, (FIRST_OF_ONE,))
        units = (ticket.page_ids, ticket.slot_id)
        asked = self._followers.ask("checksums", *units, sources) if self._followers else []
        found = checksums_of(
            self._memory_map,
            *units,
            self._memory.crcs,
            sources=sources,
            target=self._memory_map.ranks[0],
        )
        for answer in asked:
            found |= answer.result()
        return found
