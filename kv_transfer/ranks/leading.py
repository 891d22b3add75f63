"""The leader's side of handoffs between workers of several ranks.

Every rank of the writer sends a part of each handoff; the leader starts and ends all parts. A pass
makes the same pages ready on each rank, layer by layer, but each at its own time. So the leader
announces before a pass what it will ship, and each rank ships that as its own layers are done.

Every rank of the reader verifies the bytes that arrived in its memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from kv_transfer.layout import MemoryMap
from kv_transfer.ticket import Checksums, Ticket, TicketId
from kv_transfer.transport.cache_memory import CacheMemory, checksums_of
from kv_transfer.writing.outgoing import Outgoing, ShipResult
from kv_transfer.writing.writer import HandoffWriter
from segue.api.turn import PrefillOutcome
from segue.api.types import Epoch, PageId, SlotId, WorkerId
from segue.parallel.followers import Followers
from segue.parallel.rank import FIRST_OF_ONE, Rank


class RanksSending:
    """One handoff, by all ranks of a worker."""

    def __init__(self, ticket_id: TicketId, own: Outgoing, followers: Followers) -> None:
        self.outcome: PrefillOutcome | None = None
        self._ticket_id = ticket_id
        self._own = own
        self._followers = followers
        self._result: ShipResult | None = None

    @property
    def is_open(self) -> bool:
        """A follower's failure shows when the handoff ends."""
        return self._own.is_open

    def announce(self, *, pages: range, with_slot: bool) -> None:
        self._followers.tell("announce", self._ticket_id, pages, with_slot)

    def layer_ready(self, layer: int, *, pages: range, with_slot: bool = False) -> None:
        self._own.layer_ready(layer, pages=pages, with_slot=with_slot)

    def all_ready(self, num_pages: int) -> None:
        answers = self._followers.ask("all_ready", self._ticket_id, num_pages)
        self._own.all_ready(num_pages)
        for answer in answers:
            answer.result()

    async def finish(self) -> ShipResult:
        if self._result is None:
            others = _all(self._followers.ask("finish", self._ticket_id))
            own, of_others = await asyncio.gather(self._own.finish(), others)
            self._result = _together(own, of_others)
        return self._result

    async def stop(self, reason: str) -> None:
        others = _all(self._followers.ask("stop", self._ticket_id, reason))
        await asyncio.gather(self._own.stop(reason), others)


def _together(own: ShipResult, of_others: Sequence[ShipResult]) -> ShipResult:
    """Other ranks may run on other machines, with other clocks. But all end their passes at the
    same time, since they wait for each other in a pass. So a part that is exposed longer arrives
    later by the difference."""
    results = [own, *of_others]
    exposed_s = max(result.exposed_transfer_s for result in results)
    return ShipResult(
        shipped_bytes=sum(result.shipped_bytes for result in results),
        transfer_s=max(result.transfer_s for result in results),
        exposed_transfer_s=exposed_s,
        started_at=own.started_at,
        arrived_at=own.arrived_at + exposed_s - own.exposed_transfer_s,
        checksums={name: crc for result in results for name, crc in result.checksums.items()},
    )


class RanksWriter:
    """The writer of a worker with several ranks: the leader's own, and its followers'."""

    def __init__(self, own: HandoffWriter, followers: Followers) -> None:
        self.epoch = own.epoch
        self._own = own
        self._followers = followers

    @property
    def is_shipping(self) -> bool:
        """The leader's part of a handoff ends no earlier than the call that ends all parts."""
        return self._own.is_shipping

    def start(
        self,
        ticket: Ticket,
        reader_map: MemoryMap,
        *,
        source_pages: Sequence[PageId],
        source_slot: SlotId,
    ) -> RanksSending:
        own = self._own.start(
            ticket, reader_map, source_pages=source_pages, source_slot=source_slot
        )
        self._followers.tell("start", ticket, reader_map, tuple(source_pages), source_slot)
        return RanksSending(ticket.ticket_id, own, self._followers)

    async def fence(self, ticket_id: TicketId) -> None:
        others = _all(self._followers.ask("fence", ticket_id))
        await asyncio.gather(self._own.fence(ticket_id), others)

    def members_changed(self, alive: Mapping[WorkerId, Epoch]) -> None:
        self._own.members_changed(alive)
        self._followers.tell("members_changed", dict(alive))

    def close(self) -> None:
        self._own.close()
        for answer in self._followers.ask("close"):
            answer.result()


def _all(answers: Sequence[Future[Any]]) -> asyncio.Future[list[Any]]:
    return asyncio.gather(*(asyncio.wrap_future(answer) for answer in answers))


Sending = Outgoing | RanksSending
Writer = HandoffWriter | RanksWriter


class ArrivedBytes:
    """The bytes that arrived in a reader's memory, on all of its ranks."""

    def __init__(
        self, memory_map: MemoryMap, memory: CacheMemory, followers: Followers | None
    ) -> None:
        """`memory`: of rank 0, which is this process."""
        self._memory_map = memory_map
        self._memory = memory
        self._followers = followers
        self._ranks_of: dict[WorkerId, Sequence[Rank]] = {}
        """Each writer's ranks: it splits what it sends into as many parts."""

    def met(self, writer: MemoryMap) -> None:
        """Called when a writer asks for the memory map, which it does before it sends."""
        self._ranks_of[writer.worker_id] = writer.ranks

    def checksums(self, ticket: Ticket, writer: WorkerId) -> Checksums:
        """The checksums of the ticket's units, on all ranks. Blocks."""
        sources = self._ranks_of.get(writer, (FIRST_OF_ONE,))
        units = (ticket.page_ids, ticket.slot_id)
        answers = self._followers.ask("checksums", *units, sources) if self._followers else []
        found = checksums_of(
            self._memory_map,
            *units,
            self._memory,
            sources=sources,
            target=self._memory_map.ranks[0],
        )
        for answer in answers:
            found |= answer.result()
        return found
