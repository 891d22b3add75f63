"""A prefix cache with a host tier behind it: real tensors, and the real copying thread."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence

from segue.api.prompt import Prompt
from segue.api.types import PageId
from segue.cache.host.tier import CopyUnits, HostTier, Tiers
from segue.cache.layout import Unit
from segue.cache.memory import Memory
from segue.cache.prefix.node import PageNode
from segue.cache.tensors import CacheTensors, copy_units
from tests.cache.naive_cache import Tokens
from tests.cache.prefix_world import LAYOUT, PAGE_TOKENS, TO_DECODE, World


class TieredWorld(World):
    """A world whose pages hold the number of their last token, with a host tier behind it."""

    def __init__(
        self, *, num_pages: int = 16, num_slots: int = 8, host_pages: int = 16, host_slots: int = 4
    ):
        super().__init__(num_pages=num_pages, num_slots=num_slots)
        self.device = CacheTensors.allocate(
            LAYOUT, num_pages=num_pages, num_slots=num_slots, device="cpu"
        )
        self.on_host = CacheTensors.allocate(
            LAYOUT, num_pages=host_pages, num_slots=host_slots, device="cpu"
        )
        host = Memory.of(
            num_pages=host_pages,
            num_slots=host_slots,
            page_tokens=PAGE_TOKENS,
            worth=TO_DECODE,
            clock=lambda: self.now,
        )
        self.num_freed = 0
        self.loads: list[int] = []
        self.copies: list[tuple[Unit, int]] = []
        self.threads: set[str] = set()
        self.may_copy = threading.Event()
        self.may_copy.set()
        self.tier = HostTier(
            Tiers(
                device=Memory(pages=self.pages, slots=self.slots, cache=self.cache),
                host=host,
                layout=LAYOUT,
                down=self.watched(functools.partial(copy_units, self.device, self.on_host)),
                up=self.watched(functools.partial(copy_units, self.on_host, self.device)),
            ),
            freed=self.freed,
            loaded=lambda num_tokens, _: self.loads.append(num_tokens),
            clock=lambda: self.now,
        )

    def watched(self, copy: CopyUnits) -> CopyUnits:
        def on_thread(unit: Unit, from_units: Sequence[int], to_units: Sequence[int]) -> None:
            assert self.may_copy.wait(5)
            self.threads.add(threading.current_thread().name)
            self.copies.append((unit, len(from_units)))
            copy(unit, from_units, to_units)

        return on_thread

    def freed(self) -> None:
        self.num_freed += 1

    def insert(self, hold, tokens, *checkpoints):  # type: ignore[no-untyped-def]
        first = len(hold.pages)
        pages = super().insert(hold, tokens, *checkpoints)
        for i, page in enumerate(hold.pages[first:], start=first):
            self.page(page).fill_(tokens[(i + 1) * PAGE_TOKENS - 1])
        for end in checkpoints:
            node = hold.node.at(end)
            self.device.of("recurrent", 1)[node.checkpoint.slot].fill_(-tokens[end - 1])
        return pages

    def page(self, page: PageId):  # type: ignore[no-untyped-def]
        return self.device.of("kv", 0)[page]

    def node(self, tokens: Tokens) -> PageNode:
        return self.cache.find(Prompt(tokens)).node

    async def offload(self, tokens: Tokens) -> PageNode | None:
        return await self.tier.offload(self.node(tokens))

    def on_the_host(self, tokens: Tokens) -> int:
        return self.tier.cache.find(Prompt(tokens)).num_tokens

    def evict_all(self) -> None:
        assert self.cache.make_room(self.pages.total, self.slots.total)

    def check(self) -> None:
        super().check()
        self.tier.check_invariants()

    def check_bytes(self, tokens: Tokens) -> None:
        match = self.cache.find(Prompt(tokens))
        for i, page in enumerate(match.pages):
            assert (self.page(page) == tokens[(i + 1) * PAGE_TOKENS - 1]).all()
        if match.checkpoint is not None:
            state = self.device.of("recurrent", 1)[match.checkpoint.slot]
            assert (state == -tokens[match.checkpoint.num_tokens - 1]).all()
