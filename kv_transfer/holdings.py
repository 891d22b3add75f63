"""What reservations hold of the two accountants: units follow the state of their handoff.

Reserved, Verifying   reserved units        Committed   working units, the receiver's
Quarantined           quarantined units     Freed       free units
"""

from __future__ import annotations

from kv_transfer.handoff import (
    Committed,
    Freed,
    Quarantined,
    ReaderState,
    Reserved,
    Units,
    Verifying,
)
from segue.cache.accountant import Accountant, UnitState
from segue.cache.until_kept import UntilKept
from segue.types import PageId, SlotId, TurnId


class Holdings:
    def __init__(self, pages: Accountant[PageId], slots: Accountant[SlotId]) -> None:
        self._pages = pages
        self._slots = slots

    @property
    def max_pages(self) -> int:
        return self._pages.total

    def take(self, num_pages: int, owner: TurnId) -> Units:
        """Reserves pages and a slot, or raises and takes neither: Overloaded when there is no room
        now.
        """
        with UntilKept() as taken:
            (slot,) = self._slots.take(1, UnitState.RESERVED, owner=owner)
            taken.callback(self._slots.give_back, [slot], UnitState.RESERVED)
            units = Units(self._pages.take(num_pages, UnitState.RESERVED, owner=owner), slot)
            taken.keep()
        return units

    def give_back_reserved(self, units: Units) -> None:
        self._give_back(units, UnitState.RESERVED)

    def follow(self, before: ReaderState, after: ReaderState) -> None:
        """Moves the units of a handoff that went from one state to another."""
        match before, after:
            case Reserved(units), Quarantined():
                self._move(units, UnitState.RESERVED, UnitState.QUARANTINED)
            case Verifying(units), Committed():
                self._move(units, UnitState.RESERVED, UnitState.WORKING)
            case ((Reserved(units) | Verifying(units)), Freed()):
                self._give_back(units, UnitState.RESERVED)
            case Quarantined(units), Freed():
                self._give_back(units, UnitState.QUARANTINED)

    def _move(self, units: Units, from_state: UnitState, to_state: UnitState) -> None:
        self._pages.move(units.pages, from_state, to_state)
        self._slots.move([units.slot], from_state, to_state)

    def _give_back(self, units: Units, from_state: UnitState) -> None:
        self._pages.give_back(units.pages, from_state)
        self._slots.give_back([units.slot], from_state)
