"""Workers of several ranks in one process: each rank has its memory, transport and writer, and the
leader calls its followers directly instead of over a connection."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, cast

import torch

from kv_transfer.layout import MemoryMap
from kv_transfer.ranks.follower_handoffs import FollowerHandoffs
from kv_transfer.ranks.leading import RanksWriter, Writer
from kv_transfer.reading.reader import HandoffReader
from kv_transfer.ticket import PeerIdentity
from kv_transfer.transport.cache_memory import HostMemory
from kv_transfer.transport.loopback import LoopbackNetwork, LoopbackTransport
from kv_transfer.transport.transport import register_fields, registered
from kv_transfer.writing.writer import HandoffWriter
from segue.api.types import Epoch, WorkerId
from segue.cache.layout import E4M3, CacheField, CacheLayout, Unit
from segue.cache.memory import UnitPools
from segue.cache.parts import layout_of_rank, spans
from segue.cache.tensors import CacheTensors
from segue.cache.unit_pool import page_pool, slot_pool
from segue.parallel.followers import Followers
from segue.parallel.rank import FIRST_OF_ONE, Rank

NUM_PAGES, NUM_SLOTS, PAGE_TOKENS = 12, 3, 4
LAYOUT = CacheLayout(
    model_id="tiny",
    page_tokens=PAGE_TOKENS,
    fields=(
        CacheField(group="recurrent", layer=0, unit=Unit.SLOT, dtype="float32", shape=(8, 3, 5)),
        CacheField(group="conv", layer=0, unit=Unit.SLOT, dtype="bfloat16", shape=(64, 3)),
        # Four ranks share two heads.
        CacheField(
            group="kv", layer=1, unit=Unit.PAGE, dtype="bfloat16", shape=(2, 2, PAGE_TOKENS, 8)
        ),
        CacheField(group="hidden", layer=2, unit=Unit.SLOT, dtype="bfloat16", shape=(6,)),
        CacheField(group="kv", layer=2, unit=Unit.PAGE, dtype=E4M3, shape=(2, 2, PAGE_TOKENS, 8)),
    ),
)


def new_tensors(layout: CacheLayout) -> CacheTensors:
    return CacheTensors.allocate(layout, num_pages=NUM_PAGES, num_slots=NUM_SLOTS, device="cpu")


class CalledDirectly:
    """In place of `Followers`."""

    def __init__(self, handoffs: Sequence[FollowerHandoffs]) -> None:
        self._handoffs = handoffs
        self._loop = asyncio.get_running_loop()

    def tell(self, name: str, *arguments: object) -> None:
        for handoffs in self._handoffs:
            getattr(handoffs, name)(*arguments)

    def ask(self, name: str, *arguments: object) -> list[Future[Any]]:
        return [self._ask(getattr(handoffs, name), arguments) for handoffs in self._handoffs]

    def _ask(self, call: Any, arguments: Sequence[object]) -> Future[Any]:
        if inspect.iscoroutinefunction(call):
            return asyncio.run_coroutine_threadsafe(call(*arguments), self._loop)
        answer: Future[Any] = Future()
        try:
            answer.set_result(call(*arguments))
        except Exception as error:
            answer.set_exception(error)
        return answer


class RankedWorker:
    """Make it on an event loop."""

    def __init__(self, network: LoopbackNetwork, name: str, count: int) -> None:
        self.name = name
        self.ranks = [Rank(index=index, count=count) for index in range(count)]
        self.tensors = [new_tensors(layout_of_rank(LAYOUT, rank)) for rank in self.ranks]
        transports = [LoopbackTransport(network, f"{name}/{rank.index}") for rank in self.ranks]
        followers = tuple(
            register_fields(transport, tensors.fields())
            for transport, tensors in zip(transports[1:], self.tensors[1:], strict=True)
        )
        self.memory_map: MemoryMap = registered(
            transports[0],
            self.tensors[0].fields(),
            worker_id=WorkerId(name),
            epoch=Epoch(1),
            layout=LAYOUT,
            followers=followers,
        )
        handoffs = [
            FollowerHandoffs(transport, HostMemory(), rank, self.memory_map, True)
            for transport, rank in zip(transports[1:], self.ranks[1:], strict=True)
        ]
        self.followers = cast(Followers, CalledDirectly(handoffs)) if handoffs else None
        own = HandoffWriter(transports[0], self.memory_map)
        self.writer: Writer = RanksWriter(own, self.followers) if self.followers else own
        self.pools = UnitPools(pages=page_pool(NUM_PAGES), slots=slot_pool(NUM_SLOTS))

    @property
    def identity(self) -> PeerIdentity:
        return PeerIdentity(worker_id=WorkerId(self.name), epoch=Epoch(1), address="here:1")

    def reader(self) -> HandoffReader:
        return HandoffReader(
            pools=self.pools,
            memory_map=self.memory_map,
            address="here:1",
            followers=self.followers,
        )

    def hold(self, whole: CacheTensors) -> None:
        """Gives each rank its part of these units."""
        for rank, tensors in zip(self.ranks, self.tensors, strict=True):
            for (field, to), (_, source) in zip(tensors.fields(), whole.fields(), strict=True):
                to.copy_(part_of(source, LAYOUT.fields[_index(field)], rank).view_as(to))


def part_of(whole: torch.Tensor, field: CacheField, rank: Rank) -> torch.Tensor:
    """A rank's part of whole units [num_units, *shape]."""
    size = whole.element_size()
    flat = whole.flatten(1)
    # Of one rank, what several get.
    parts = [
        flat[:, span.source_offset // size : (span.source_offset + span.num_bytes) // size]
        for span in spans(LAYOUT, field, FIRST_OF_ONE, rank)
    ]
    return torch.cat(parts, dim=1)


def _index(field: CacheField) -> int:
    return next(
        index
        for index, whole in enumerate(LAYOUT.fields)
        if (whole.group, whole.layer) == (field.group, field.layer)
    )
