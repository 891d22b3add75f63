"""The addresses of a worker's cache, which other workers need to write to it.

`segue.cache.layout` defines the bytes of a page and a slot; a `MemoryMap` adds one base address per
field of that layout:

    base_addresses[i]                         + num_units[i] * unit_bytes
    ├─ unit 0 ─┼─ unit 1 ─┼─ unit 2 ─┼─ ... ──┤        one such region for every field

If the worker has several ranks, the layout is that of whole units, and each rank has such regions
with its part of every unit (`segue.cache.parts`). Units have the same numbers on all ranks.

No torch here: an array is anything with `data_ptr()` and a shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from segue.api.checks import require_epoch, require_name
from segue.api.errors import LayoutMismatch
from segue.api.types import Epoch, WorkerId
from segue.cache.layout import CacheField, CacheLayout
from segue.cache.parts import field_of_rank, layout_of_rank
from segue.parallel.rank import FIRST_OF_ONE, Rank


class Array(Protocol):
    """The part of a torch tensor that is used here."""

    def data_ptr(self) -> int: ...

    @property
    def shape(self) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRegion:
    """The memory of all units of one field."""

    field: CacheField
    base_address: int
    num_units: int
    unit_bytes: int = dataclasses.field(init=False, repr=False)
    """The field's, which computes it each time."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "unit_bytes", self.field.unit_bytes)

    @property
    def num_bytes(self) -> int:
        return self.num_units * self.unit_bytes

    def address(self, unit: int) -> int:
        """The unit's first byte. Raises IndexError if there is no such unit."""
        if not 0 <= unit < self.num_units:
            raise IndexError(f"{self.field.unit} {unit} is not one of {self.num_units}")
        return self.base_address + unit * self.unit_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """The memory of one rank."""

    segment: str
    """The transport's name for its process."""
    base_addresses: tuple[int, ...]
    """In `layout.fields` order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMap:
    """A worker's cache for other workers. Addresses and counts are in `layout.fields` order."""

    worker_id: WorkerId
    epoch: Epoch
    segment: str
    """The transport's name for this process, the worker's rank 0."""
    layout: CacheLayout
    base_addresses: tuple[int, ...]
    num_units: tuple[int, ...]
    followers: tuple[RankMemory, ...] = ()
    """The other ranks, in order."""

    def __post_init__(self) -> None:
        expected = len(self.layout.fields)
        for rank in self.memories:
            if not len(rank.base_addresses) == len(self.num_units) == expected:
                raise ValueError(
                    f"{self.worker_id}: expected {expected} addresses and unit counts, one per "
                    f"field, got {len(rank.base_addresses)} and {len(self.num_units)}"
                )
            require_name(f"a segment of {self.worker_id}", rank.segment)
        require_name("a memory map's worker", self.worker_id)
        require_epoch(f"the epoch of {self.worker_id}", self.epoch)
        # Raises ValueError if units cannot be split over the ranks.
        layout_of_rank(self.layout, self.ranks[0])

    @property
    def memories(self) -> tuple[RankMemory, ...]:
        """One per rank."""
        own = RankMemory(segment=self.segment, base_addresses=self.base_addresses)
        return (own, *self.followers)

    @property
    def ranks(self) -> tuple[Rank, ...]:
        count = 1 + len(self.followers)
        return tuple(Rank(index=index, count=count) for index in range(count))

    def region(self, field_index: int, rank: Rank = FIRST_OF_ONE) -> FieldRegion:
        """The region of this rank's part of the units."""
        field, base_addresses = self.layout.fields[field_index], self.base_addresses
        if self.followers:
            field = field_of_rank(self.layout, field, rank)
            base_addresses = self.memories[rank.index].base_addresses
        return FieldRegion(
            field=field,
            base_address=base_addresses[field_index],
            num_units=self.num_units[field_index],
        )

    def regions(self) -> Iterator[FieldRegion]:
        """In the layout's field order: those of rank 0."""
        first = self.ranks[0]
        return (self.region(index, first) for index in range(len(self.layout.fields)))


def require_same_layout(ours: MemoryMap, theirs: MemoryMap) -> None:
    """Raises LayoutMismatch if the layouts differ, naming both workers and the first difference."""
    differences = list(_differences(ours.layout, theirs.layout))
    if differences:
        raise LayoutMismatch(
            f"{ours.worker_id} and {theirs.worker_id} cannot exchange caches: "
            f"{ours.worker_id} has {differences[0][0]}, {theirs.worker_id} has {differences[0][1]}"
            + (f" (and {len(differences) - 1} more differences)" if len(differences) > 1 else "")
        )


def _differences(ours: CacheLayout, theirs: CacheLayout) -> Iterator[tuple[str, str]]:
    """Describes each difference on both sides, the most significant first."""
    if ours.model_id != theirs.model_id:
        yield f"model_id {ours.model_id!r}", f"model_id {theirs.model_id!r}"
    if ours.page_tokens != theirs.page_tokens:
        yield f"page_tokens {ours.page_tokens}", f"page_tokens {theirs.page_tokens}"
    if len(ours.fields) != len(theirs.fields):
        yield f"{len(ours.fields)} fields", f"{len(theirs.fields)} fields"
    for index, (our, their) in enumerate(zip(ours.fields, theirs.fields, strict=False)):
        if our != their:
            yield f"field {index} {_describe(our)}", f"field {index} {_describe(their)}"


def _describe(field: CacheField) -> str:
    shape = ", ".join(str(size) for size in field.shape)
    return f"{field.group} of layer {field.layer}: [{shape}] {field.dtype} per {field.unit}"
