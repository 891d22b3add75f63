"""Workers without a model: a small hybrid cache, its unit pools, and a loopback network."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from kv_transfer.layout import MemoryMap
from kv_transfer.reading.reader import HandoffReader
from kv_transfer.reading.reservations import Reservation
from kv_transfer.ticket import PeerIdentity, Ticket
from kv_transfer.transport.cache_memory import CacheMemory, HostMemory
from kv_transfer.transport.loopback import LoopbackNetwork, LoopbackTransport
from kv_transfer.transport.transport import registered
from kv_transfer.writing.outgoing import Outgoing, ShipLimits
from kv_transfer.writing.writer import HandoffWriter
from segue.api.errors import Cancelled
from segue.api.types import Epoch, PageId, SlotId, TurnId, WorkerId
from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.cache.memory import UnitPools
from segue.cache.tensors import CacheTensors
from segue.cache.unit_pool import UnitPool, page_pool, slot_pool

PAGE_TOKENS = 4


def gdn_layer(layer: int) -> tuple[CacheField, CacheField]:
    return (
        CacheField(
            group="recurrent", layer=layer, unit=Unit.SLOT, dtype="float32", shape=(2, 3, 5)
        ),
        CacheField(group="conv", layer=layer, unit=Unit.SLOT, dtype="bfloat16", shape=(7, 3)),
    )


def attention_layer(layer: int) -> CacheField:
    shape = (2, 1, PAGE_TOKENS, 8)
    return CacheField(group="kv", layer=layer, unit=Unit.PAGE, dtype="bfloat16", shape=shape)


LAYOUT = CacheLayout(
    model_id="tiny",
    page_tokens=PAGE_TOKENS,
    fields=(*gdn_layer(0), attention_layer(1), *gdn_layer(2), attention_layer(3)),
)
NUM_LAYERS = 4


class Clock:
    """Time that advances only when a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Events:
    """What a reader reports."""

    num_freed: int = 0
    steps: list[tuple[str, str]] = field(default_factory=list)

    def freed(self) -> None:
        self.num_freed += 1

    def stepped(self, before: str, after: str) -> None:
        self.steps.append((before, after))


class Node:
    """One worker's memory."""

    def __init__(
        self, network: LoopbackNetwork, name: str, epoch: int, num_pages: int, layout: CacheLayout
    ) -> None:
        self.tensors = CacheTensors.allocate(layout, num_pages=num_pages, num_slots=3, device="cpu")
        self.transport = LoopbackTransport(network, f"{name}:{epoch}")
        self.memory_map: MemoryMap = registered(
            self.transport,
            self.tensors.fields(),
            worker_id=WorkerId(name),
            epoch=Epoch(epoch),
            layout=layout,
        )
        self.pages: UnitPool[PageId] = page_pool(num_pages)
        self.slots: UnitPool[SlotId] = slot_pool(3)

    @property
    def identity(self) -> PeerIdentity:
        return PeerIdentity(
            worker_id=self.memory_map.worker_id, epoch=self.memory_map.epoch, address="here:1"
        )

    def fill(self, seed: int) -> None:
        """Fills everything with random bytes."""
        generator = torch.Generator().manual_seed(seed)
        for _, tensor in self.tensors.fields():
            raw = tensor.view(torch.uint8)
            raw.copy_(torch.randint(0, 256, raw.shape, generator=generator, dtype=torch.uint8))

    def content(self, pages: tuple[PageId, ...], slot: SlotId) -> list[bytes]:
        """The bytes of a sequence: its pages in order for every field, or its slot."""
        return [
            tensor[list(pages) if f.unit is Unit.PAGE else [slot]]
            .view(torch.uint8)
            .numpy()
            .tobytes()
            for f, tensor in self.tensors.fields()
        ]


class World:
    """A network of nodes. At the end every unit pool must add up and every thread must have
    ended.
    """

    def __init__(self) -> None:
        self.network = LoopbackNetwork()
        self.nodes: list[Node] = []
        self.writers: list[HandoffWriter] = []
        self.reservations: dict[TurnId, Reservation] = {}
        self._turns = itertools.count(1)

    def node(
        self, name: str, *, epoch: int = 1, num_pages: int = 16, layout: CacheLayout = LAYOUT
    ) -> Node:
        node = Node(self.network, name, epoch, num_pages, layout)
        self.nodes.append(node)
        return node

    def writer(
        self, node: Node, limits: ShipLimits | None = None, memory: CacheMemory | None = None
    ) -> HandoffWriter:
        writer = HandoffWriter(
            node.transport, node.memory_map, limits or ShipLimits(), memory=memory or HostMemory()
        )
        self.writers.append(writer)
        return writer

    def reader(
        self, node: Node, *, clock: Callable[[], float] | None = None, events: Events | None = None
    ) -> HandoffReader:
        events = events or Events()
        return HandoffReader(
            pools=UnitPools(pages=node.pages, slots=node.slots),
            memory_map=node.memory_map,
            address="here:1",
            freed=events.freed,
            stepped=events.stepped,
            clock=clock or Clock(),
        )

    def reserve(
        self,
        reader: HandoffReader,
        writer: Node,
        *,
        turn: str = "",
        num_tokens: int = 10,
        extra: int = 5,
    ) -> Ticket:
        """The reservation of a turn's last ticket is in `reservations`."""
        turn_id = TurnId(turn or f"turn-{next(self._turns)}")
        self.reservations[turn_id] = reader.reserve(
            turn_id,
            num_prompt_tokens=num_tokens,
            extra_tokens=extra,
            writer=writer.identity,
            lifetime_s=30.0,
        )
        return self.reservations[turn_id].ticket

    def give_up(self, turn: str, reason: str) -> None:
        self.reservations[TurnId(turn)].give_up(Cancelled(reason))

    def lost(self) -> dict[str, str]:
        """The turns whose handoff was lost or given up, with the error's text."""
        return {
            turn: str(reservation.failure)
            for turn, reservation in self.reservations.items()
            if reservation.failure
        }

    def close(self) -> None:
        self.network.release()
        for writer in self.writers:
            writer.close()
        for node in self.nodes:
            node.pages.check_invariants()
            node.slots.check_invariants()


def ship_all(outgoing: Outgoing, num_pages: int) -> None:
    """Ships everything as one chunk."""
    for layer in range(NUM_LAYERS):
        outgoing.layer_ready(layer, pages=range(num_pages), with_slot=True)
