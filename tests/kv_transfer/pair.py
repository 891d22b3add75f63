"""Two workers between which one prompt is handed off."""

from __future__ import annotations

from kv_transfer.layout import MemoryMap
from kv_transfer.reading.reader import HandoffReader
from kv_transfer.ticket import Ticket
from kv_transfer.transport.cache_memory import CacheMemory
from kv_transfer.writing.outgoing import Outgoing, ShipLimits
from kv_transfer.writing.writer import HandoffWriter
from segue.api.types import PageId, SlotId
from tests.kv_transfer.world import Node, World

SOURCE_PAGES = (PageId(7), PageId(2), PageId(3))


class Pair:
    """A prefill and a decode worker, and one ticket between them."""

    def __init__(
        self, world: World, limits: ShipLimits | None = None, memory: CacheMemory | None = None
    ) -> None:
        self.world = world
        self.network = world.network
        self.source: Node = world.node("prefill-0")
        self.source.fill(seed=1)
        self.target: Node = world.node("decode-0")
        self.reader: HandoffReader = world.reader(self.target)
        self.writer: HandoffWriter = world.writer(self.source, limits, memory)
        self.ticket: Ticket = world.reserve(self.reader, self.source, num_tokens=10)

    @property
    def reader_map(self) -> MemoryMap:
        return self.target.memory_map

    def start(self, ticket: Ticket | None = None) -> Outgoing:
        return self.writer.start(
            ticket or self.ticket,
            self.reader_map,
            source_pages=SOURCE_PAGES,
            source_slot=SlotId(1),
        )

    def has_arrived(self) -> bool:
        sent = self.source.content(SOURCE_PAGES, SlotId(1))
        return self.target.content(self.ticket.page_ids, self.ticket.slot_id) == sent
