"""Units whose owner is gone: nobody will give them back. There must be none, at any moment.

Every unit that is neither free nor the prefix tree's has an owner by name: the turn that it works
for, the turn whose ticket it is promised in, the copy that brings something into it. A worker knows
which of these are here; what the others own is a leak, and has a name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from segue.cache.accountant import Accountant, AccountingError
from segue.types import PageId, SlotId


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
            f"{pages} pages and {slots} slots are owned by {owner or 'nobody'}, which is not here"
            for owner, (pages, slots) in self.by_owner.items()
        )

    def require_none(self) -> None:
        """Raises AccountingError that names them."""
        if self.by_owner:
            raise AccountingError(str(self))


def strays_of(
    pages: Accountant[PageId], slots: Accountant[SlotId], here: Collection[str]
) -> Strays:
    """`here`: the owners that will give back what they have. Looks at owners, not at units."""
    of_pages, of_slots = pages.owners(), slots.owners()
    gone = [owner for owner in {**of_pages, **of_slots} if owner not in here]
    return Strays({owner: (of_pages.get(owner, 0), of_slots.get(owner, 0)) for owner in gone})
