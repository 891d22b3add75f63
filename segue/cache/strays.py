"""Strays are units whose owner is gone, so they would never be freed. There must never be any.

Every unit that is neither free nor the prefix tree's has a named owner: the turn that uses it, the
turn whose ticket reserves it, or the copy that writes it. A worker knows which owners still exist;
units of other owners are a leak, reported under the owner's name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from segue.api.types import PageId, SlotId
from segue.cache.unit_pool import AccountingError, UnitPool


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


def strays_of(pages: UnitPool[PageId], slots: UnitPool[SlotId], here: Collection[str]) -> Strays:
    """`here`: the owners that still exist. Examines owners, not units."""
    of_pages, of_slots = pages.owners(), slots.owners()
    gone = [owner for owner in {**of_pages, **of_slots} if owner not in here]
    return Strays({owner: (of_pages.get(owner, 0), of_slots.get(owner, 0)) for owner in gone})
