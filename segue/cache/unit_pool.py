"""Tracks the state and the owner of every page and slot. A unit is in exactly one state.

        take               move                    give_back
    free ───▶ working ◀──────────▶ cached  ───────────────────▶ free
    free ───▶ reserved ──▶ working                 (from any state)
                  └─────▶ quarantined ────────────────────────▶ free

There is one pool for pages and one for slots. It only counts: it neither owns memory nor waits for
room. It has no lock: one thread owns it, and other threads send that thread a message.
"""

from __future__ import annotations

import contextlib
import enum
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from segue.api.cluster.status import UnitCounts
from segue.api.errors import Overloaded
from segue.api.types import PageId, SlotId

UnitId = TypeVar("UnitId", bound=int)


class UnitState(enum.StrEnum):
    FREE = "free"
    WORKING = "working"
    """A running sequence reads or writes it."""
    CACHED = "cached"
    """The prefix tree keeps it."""
    RESERVED = "reserved"
    """A remote worker may write it, and is expected to."""
    QUARANTINED = "quarantined"
    """A remote worker may still write it, but its data is no longer wanted."""


NO_OWNER = ""
"""The owner of units that were taken without an owner's name."""

_OWNERLESS = (UnitState.FREE, UnitState.CACHED)


class AccountingError(AssertionError):
    """A unit was not in the state that the caller claimed: a bug in Segue, never a user's error."""


class UnitPool(Generic[UnitId]):
    """Tracks `total` units. `page_pool` and `slot_pool` make one."""

    def __init__(self, name: str, make_id: Callable[[int], UnitId], total: int) -> None:
        self.name = name
        self.total = total
        self._make_id = make_id
        self._states = [UnitState.FREE] * total
        self._owners = [NO_OWNER] * total
        self._held: Counter[str] = Counter()
        self._counts = dict.fromkeys(UnitState, 0) | {UnitState.FREE: total}
        # One number with a bit per unit: a few operations on it find neighbours or free units,
        # however scattered they are.
        self._free = (1 << total) - 1

    def fits(self, num_units: int) -> bool:
        """Whether `take(num_units, ...)` would succeed now."""
        return num_units <= self._counts[UnitState.FREE]

    def take(
        self, num_units: int, state: UnitState, *, owner: str = NO_OWNER
    ) -> tuple[UnitId, ...]:
        """Moves free units to `state`: neighbours if a long enough run is free, else the lowest.

        `owner`, such as a turn, gives them back. It owns them until they are free or the prefix
        tree's. Neighbours in memory become one fragment on the wire. Raises Overloaded, and changes
        nothing, if fewer than `num_units` are free.
        """
        require_sound(num_units >= 0, f"cannot take {num_units} {self.name}s")
        require_sound(state is not UnitState.FREE, "taken units must not stay free")
        if not self.fits(num_units):
            free = self._counts[UnitState.FREE]
            raise Overloaded(
                f"{num_units} {self.name}s wanted, {free} of {self.total} free; try again later"
            )
        units = _first_run(self._free, num_units) or _lowest(self._free, num_units)
        ids = tuple([self._make_id(unit) for unit in units])
        self._enter(ids, UnitState.FREE, state)
        if state not in _OWNERLESS:
            for unit in ids:
                self._owners[unit] = owner
            self._held[owner] += len(ids)
        self._free ^= _mask(ids, self.total)
        return ids

    def move(self, ids: Sequence[UnitId], from_state: UnitState, to_state: UnitState) -> None:
        """Moves units between two states that are not free.

        Only reserved units enter quarantine. They leave it only by `give_back`.
        """
        require_sound(UnitState.FREE not in (from_state, to_state), "use take() and give_back()")
        require_sound(
            from_state is not UnitState.QUARANTINED, "quarantined units can only be given back"
        )
        if to_state is UnitState.QUARANTINED:
            require_sound(
                from_state is UnitState.RESERVED, f"{from_state} units are not written remotely"
            )
        self._enter(ids, from_state, to_state)

    def give_back(self, ids: Sequence[UnitId], from_state: UnitState) -> None:
        """Frees units. They must all be in `from_state`."""
        require_sound(from_state is not UnitState.FREE, "free units cannot be given back")
        self._enter(ids, from_state, UnitState.FREE)
        self._free |= _mask(ids, self.total)

    def owners(self) -> dict[str, int]:
        """The number of units per owner, without those that are free or the prefix tree's."""
        return dict(+self._held)

    def owned_by(self, owner: str, state: UnitState) -> tuple[UnitId, ...]:
        """The owner's units in this state. Scans all units, so use it only after a failure."""
        return tuple(
            self._make_id(unit)
            for unit, has in enumerate(self._states)
            if has is state and self._owners[unit] == owner
        )

    def state_of(self, unit: UnitId) -> UnitState:
        return self._states[unit]

    def counts(self) -> UnitCounts:
        by_state = {state.value: num for state, num in self._counts.items()}
        return UnitCounts(total=self.total, **by_state)

    def check_invariants(self) -> None:
        """Recounts everything: states add up to the total, and the free bits are the free units."""
        recounted = {state: self._states.count(state) for state in UnitState}
        require_sound(
            recounted == self._counts, f"{self.name}s: counted {recounted}, kept {self._counts}"
        )
        require_sound(
            sum(recounted.values()) == self.total, f"{self.name}s: {recounted} != {self.total}"
        )
        owned = Counter(
            owner
            for owner, state in zip(self._owners, self._states, strict=True)
            if state not in _OWNERLESS
        )
        require_sound(owned == +self._held, f"{self.name}s: owned {owned}, kept {+self._held}")
        free = "".join("1" if state is UnitState.FREE else "0" for state in reversed(self._states))
        if int(free or "0", 2) != self._free:
            # Only now, as naming thousands of units takes longer than counting them.
            free_ids = [unit for unit, bit in enumerate(reversed(free)) if bit == "1"]
            kept_ids = list(_lowest(self._free, self._free.bit_count()))
            raise AccountingError(f"{self.name}s: free are {free_ids}, free bits are {kept_ids}")

    def _enter(self, ids: Sequence[UnitId], from_state: UnitState, to_state: UnitState) -> None:
        if len(set(ids)) != len(ids):
            raise AccountingError(f"{self.name}s named twice in {list(ids)}")
        for unit in ids:
            # Not `require_sound`: building a message for every unit would take most of the time.
            if not 0 <= unit < self.total:
                raise AccountingError(f"{self.name} {unit} is not one of {self.total}")
            if self._states[unit] is not from_state:
                raise AccountingError(
                    f"{self.name} {unit} is {self._states[unit]}, not {from_state}"
                )
        for unit in ids:
            self._states[unit] = to_state
        self._pass_on(ids, from_state, to_state)
        self._counts[from_state] -= len(ids)
        self._counts[to_state] += len(ids)

    def _pass_on(self, ids: Sequence[UnitId], from_state: UnitState, to_state: UnitState) -> None:
        """Updates the owners: free units and those of the prefix tree have none."""
        if to_state in _OWNERLESS and from_state not in _OWNERLESS:
            for unit in ids:
                self._held[self._owners[unit]] -= 1
                self._owners[unit] = NO_OWNER
        elif from_state is UnitState.CACHED and to_state not in _OWNERLESS:
            self._held[NO_OWNER] += len(ids)


class UntilKept(contextlib.ExitStack):
    """Takes memory in several steps, and gives all of it back unless every step succeeds.

        with UntilKept() as taken:
            pages = pool.take(num_pages, UnitState.WORKING, owner=turn)
            taken.callback(pool.give_back, pages, UnitState.WORKING)
            ...
            taken.keep()

    Whatever is raised in between, by Segue or by a library, no unit is left without an owner.
    """

    def keep(self) -> None:
        """Keeps everything: it all has an owner now."""
        self.pop_all()


def page_pool(num_pages: int) -> UnitPool[PageId]:
    return UnitPool("page", PageId, num_pages)


def slot_pool(num_slots: int) -> UnitPool[SlotId]:
    return UnitPool("slot", SlotId, num_slots)


def _first_run(bits: int, length: int) -> range:
    """The lowest run of `length` set bits; empty when there is none."""
    starts, num_checked = bits, 1
    while num_checked < length:
        # Each remaining start has `num_checked` set bits. Keeps those whose bit `step` further on
        # has them too.
        step = min(num_checked, length - num_checked)
        starts &= starts >> step
        num_checked += step
    start = (starts & -starts).bit_length() - 1
    return range(start, start + length) if starts else range(0)


def _lowest(bits: int, num_units: int) -> Iterator[int]:
    """The lowest set bits, ascending."""
    digits = f"{bits:b}"[::-1]
    unit = -1
    for _ in range(num_units):
        unit = digits.index("1", unit + 1)
        yield unit


def _mask(ids: Iterable[int], total: int) -> int:
    octets = bytearray(total // 8 + 1)
    for unit in ids:
        octets[unit >> 3] |= 1 << (unit & 7)
    return int.from_bytes(octets, "little")


def require_sound(condition: bool, message: str) -> None:
    if not condition:
        raise AccountingError(message)
