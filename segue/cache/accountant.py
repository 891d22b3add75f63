"""Who has which pages, and who has which slots: every unit is in exactly one state.

        take               move                    give_back
    free ───▶ working ◀──────────▶ cached  ───────────────────▶ free
    free ───▶ reserved ──▶ working                 (from any state)
                  └─────▶ quarantined ────────────────────────▶ free

One accountant for pages, one for slots. It counts; it neither owns memory nor waits for room. It
has no lock: one thread owns it, and other threads send that one a message.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from segue.errors import Overloaded
from segue.types import PageId, SlotId, UnitCounts

UnitId = TypeVar("UnitId", bound=int)


class UnitState(enum.StrEnum):
    FREE = "free"
    WORKING = "working"
    """A running sequence reads or writes it."""
    CACHED = "cached"
    """The prefix tree keeps it."""
    RESERVED = "reserved"
    """A remote may write it, and we expect it to."""
    QUARANTINED = "quarantined"
    """A remote may write it, and we have given up on what it writes."""


class AccountingError(AssertionError):
    """A unit was not in the state that the caller claimed: a bug of ours, never a user's error."""


class Accountant(Generic[UnitId]):
    """Knows the state of `total` units. `page_accountant` and `slot_accountant` make one."""

    def __init__(self, name: str, make_id: Callable[[int], UnitId], total: int) -> None:
        self.name = name
        self.total = total
        self._make_id = make_id
        self._states = [UnitState.FREE] * total
        self._counts = dict.fromkeys(UnitState, 0) | {UnitState.FREE: total}
        # Ascending, none touching the next: neighbours in memory become one fragment on the wire.
        self._free_runs = [range(total)] if total else []

    def fits(self, num_units: int) -> bool:
        """Whether `take(num_units, ...)` would succeed now."""
        return num_units <= self._counts[UnitState.FREE]

    def take(self, num_units: int, state: UnitState) -> tuple[UnitId, ...]:
        """Moves free units to `state`: neighbours if a long enough run is free, else the lowest.

        Raises Overloaded when fewer than `num_units` are free; then nothing has changed.
        """
        _require(num_units >= 0, f"cannot take {num_units} {self.name}s")
        _require(state is not UnitState.FREE, "taken units must not stay free")
        if not self.fits(num_units):
            free = self._counts[UnitState.FREE]
            raise Overloaded(
                f"{num_units} {self.name}s wanted, {free} of {self.total} free; come back later"
            )
        ids = tuple(self._make_id(unit) for unit in self._cut_free(num_units))
        self._enter(ids, UnitState.FREE, state)
        return ids

    def move(self, ids: Sequence[UnitId], from_state: UnitState, to_state: UnitState) -> None:
        """Moves units between two states that are not free.

        Only reserved units enter quarantine, and from there they can only be given back.
        """
        _require(UnitState.FREE not in (from_state, to_state), "use take() and give_back()")
        _require(
            from_state is not UnitState.QUARANTINED, "quarantined units can only be given back"
        )
        if to_state is UnitState.QUARANTINED:
            _require(
                from_state is UnitState.RESERVED, f"{from_state} units are not written remotely"
            )
        self._enter(ids, from_state, to_state)

    def give_back(self, ids: Sequence[UnitId], from_state: UnitState) -> None:
        """Frees units. They must all be in `from_state`."""
        _require(from_state is not UnitState.FREE, "free units cannot be given back")
        self._enter(ids, from_state, UnitState.FREE)
        self._free_runs = _joined([*self._free_runs, *(range(unit, unit + 1) for unit in ids)])

    def state_of(self, unit: UnitId) -> UnitState:
        return self._states[unit]

    def counts(self) -> UnitCounts:
        by_state = {state.value: num for state, num in self._counts.items()}
        return UnitCounts(total=self.total, **by_state)

    def check_invariants(self) -> None:
        """Recounts everything: states sum up to the total, and the free runs are the free units."""
        recounted = {state: self._states.count(state) for state in UnitState}
        _require(
            recounted == self._counts, f"{self.name}s: counted {recounted}, kept {self._counts}"
        )
        _require(
            sum(recounted.values()) == self.total, f"{self.name}s: {recounted} != {self.total}"
        )
        free = [unit for unit, state in enumerate(self._states) if state is UnitState.FREE]
        kept = [unit for run in self._free_runs for unit in run]
        _require(free == kept, f"{self.name}s: free are {free}, free runs are {self._free_runs}")

    def _cut_free(self, num_units: int) -> list[int]:
        """Out of the first free run that holds them all, else out of the lowest ones."""
        units: list[int] = []
        index = next((i for i, run in enumerate(self._free_runs) if len(run) >= num_units), 0)
        while len(units) < num_units:
            run = self._free_runs.pop(index)
            num_wanted = num_units - len(units)
            units.extend(run[:num_wanted])
            if len(run) > num_wanted:
                self._free_runs.insert(index, run[num_wanted:])
        return units

    def _enter(self, ids: Sequence[UnitId], from_state: UnitState, to_state: UnitState) -> None:
        _require(len(set(ids)) == len(ids), f"{self.name}s named twice in {list(ids)}")
        for unit in ids:
            _require(0 <= unit < self.total, f"{self.name} {unit} is not one of {self.total}")
            _require(
                self._states[unit] is from_state,
                f"{self.name} {unit} is {self._states[unit]}, not {from_state}",
            )
        for unit in ids:
            self._states[unit] = to_state
        self._counts[from_state] -= len(ids)
        self._counts[to_state] += len(ids)


def page_accountant(num_pages: int) -> Accountant[PageId]:
    return Accountant("page", PageId, num_pages)


def slot_accountant(num_slots: int) -> Accountant[SlotId]:
    return Accountant("slot", SlotId, num_slots)


def _joined(ranges: Iterable[range]) -> list[range]:
    """Ascending, and those that touch are one."""
    runs: list[range] = []
    for run in sorted(ranges, key=lambda run: run.start):
        if runs and runs[-1].stop == run.start:
            runs[-1] = range(runs[-1].start, run.stop)
        else:
            runs.append(run)
    return runs


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AccountingError(message)
