"""One tier of a worker's memory: the pools of its pages and slots, and its prefix cache.

Sequences run on the device tier. The host tier, if there is one, holds only cached prefixes.

Every unit that is neither free nor the prefix tree's has a named owner: the turn that uses it, the
turn whose ticket reserves it, or the copy that writes it. A worker knows which owners still exist.
Units of other owners are strays: a leak, reported under the owner's name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from segue.api.cluster.status import UnitCounts
from segue.api.types import PageId, SlotId
from segue.cache.prefix.audit import check_invariants
from segue.cache.prefix.cache import PrefixCache
from segue.cache.prefix.eviction_cost import EvictionCost
from segue.cache.unit_pool import (
    AccountingError,
    UnitPool,
    UnitState,
    UntilKept,
    page_pool,
    slot_pool,
)


@dataclass(frozen=True, slots=True)
class Strays:
    by_owner: Mapping[str, tuple[int, int]]
    """Pages and slots."""

    @property
    def num_pages(self) -> int:
        return sum(pages for pages, _ in self.by_owner.values())

    @property
    def num_slots(self) -> int:
        return sum(slots for _, slots in self.by_owner.values())

    def __str__(self) -> str:
        return "; ".join(
            f"{pages} pages and {slots} slots are owned by {owner or 'an unknown owner'}, now gone"
            for owner, (pages, slots) in self.by_owner.items()
        )

    def require_none(self) -> None:
        """Raises an AccountingError that names their owners."""
        if self.by_owner:
            raise AccountingError(str(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPools:
    """The worker's event loop owns it."""

    pages: UnitPool[PageId]
    slots: UnitPool[SlotId]

    def take(
        self, num_pages: int, num_slots: int, state: UnitState = UnitState.WORKING, *, owner: str
    ) -> tuple[tuple[PageId, ...], tuple[SlotId, ...]]:
        """Raises Overloaded, and takes nothing, if there is no room for both now."""
        with UntilKept() as taken:
            slots = self.slots.take(num_slots, state, owner=owner)
            taken.callback(self.slots.give_back, slots, state)
            pages = self.pages.take(num_pages, state, owner=owner)
            taken.keep()
        return pages, slots

    def move(
        self,
        pages: Sequence[PageId],
        slots: Sequence[SlotId],
        from_state: UnitState,
        to_state: UnitState,
    ) -> None:
        self.pages.move(pages, from_state, to_state)
        self.slots.move(slots, from_state, to_state)

    def give_back(
        self,
        pages: Sequence[PageId],
        slots: Sequence[SlotId],
        from_state: UnitState = UnitState.WORKING,
    ) -> None:
        self.pages.give_back(pages, from_state)
        self.slots.give_back(slots, from_state)

    def reclaim(self, owner: str) -> None:
        """Frees the owner's WORKING units, after a failure."""
        self.give_back(
            self.pages.owned_by(owner, UnitState.WORKING),
            self.slots.owned_by(owner, UnitState.WORKING),
        )

    def strays(self, owners: Collection[str]) -> Strays:
        """Units whose owner is not one of these. Examines owners, not units."""
        of_pages, of_slots = self.pages.owners(), self.slots.owners()
        gone = [owner for owner in {**of_pages, **of_slots} if owner not in owners]
        return Strays({owner: (of_pages.get(owner, 0), of_slots.get(owner, 0)) for owner in gone})

    def counts(self, owners: Collection[str]) -> tuple[UnitCounts, UnitCounts]:
        """Pages and slots by state. Units whose owner is not in `owners` are strays."""
        strays = self.strays(owners)
        return (
            replace(self.pages.counts(), stray=strays.num_pages),
            replace(self.slots.counts(), stray=strays.num_slots),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory(UnitPools):
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

    def check_invariants(self) -> None:
        """Raises AccountingError when states, tree and holds do not add up."""
        check_invariants(self.cache, self.pages, self.slots)
