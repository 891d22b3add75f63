"""One tier of a worker's memory: the accountants of its pages and slots, and its prefix cache.

Sequences run on the device tier. The host tier, if there is one, holds only cached prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Self

from segue.api.cluster.status import UnitCounts
from segue.api.types import PageId, SlotId
from segue.cache.prefix.audit import check_invariants
from segue.cache.prefix.cache import PrefixCache
from segue.cache.prefix.eviction_cost import EvictionCost
from segue.cache.strays import Strays, strays_of
from segue.cache.unit_pool import UnitPool, UnitState, page_pool, slot_pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The worker's event loop owns it."""

    pages: UnitPool[PageId]
    slots: UnitPool[SlotId]
    cache: PrefixCache

    @classmethod
    def of(
        cls,
        *,
        num_pages: int,
        num_slots: int,
        page_tokens: int,
        worth: EvictionCost,
        clock: Callable[[], float],
    ) -> Self:
        """A memory whose units are all free."""
        pages, slots = page_pool(num_pages), slot_pool(num_slots)
        cache = PrefixCache(pages, slots, page_tokens=page_tokens, worth=worth, clock=clock)
        return cls(pages=pages, slots=slots, cache=cache)

    def strays(self, here: Collection[str]) -> Strays:
        """Units whose owner is not in `here`."""
        return strays_of(self.pages, self.slots, here)

    def counts(self, here: Collection[str]) -> tuple[UnitCounts, UnitCounts]:
        """Pages and slots by state. Units whose owner is not in `here` are strays."""
        strays = self.strays(here)
        return (
            replace(self.pages.counts(), stray=strays.num_pages),
            replace(self.slots.counts(), stray=strays.num_slots),
        )

    def reclaim(self, owner: str) -> None:
        """Frees the owner's WORKING units, after a failure."""
        self.pages.give_back(self.pages.owned_by(owner, UnitState.WORKING), UnitState.WORKING)
        self.slots.give_back(self.slots.owned_by(owner, UnitState.WORKING), UnitState.WORKING)

    def check_invariants(self) -> None:
        """Raises AccountingError when states, tree and holds do not add up."""
        check_invariants(self.cache, self.pages, self.slots)
