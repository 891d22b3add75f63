"""Where a worker's cache lies in memory, so that another worker can write to it.

`segue.cache.layout` defines the bytes of a page and a slot; a `MemoryMap` adds one base address per
field of that layout:

    base_addresses[i]                         + num_units[i] * unit_bytes
    ├─ unit 0 ─┼─ unit 1 ─┼─ unit 2 ─┼─ ... ──┤        one such region for every field

No torch here: an array is anything with `data_ptr()` and a shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from segue.api.checks import require_epoch, require_name
from segue.api.errors import LayoutMismatch
from segue.api.types import Epoch, WorkerId
from segue.cache.layout import CacheField, CacheLayout


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

    @property
    def num_bytes(self) -> int:
        return self.num_units * self.field.unit_bytes

    def address(self, unit: int) -> int:
        if not 0 <= unit < self.num_units:
            raise IndexError(f"{self.field.unit} {unit} is not one of {self.num_units}")
        return self.base_address + unit * self.field.unit_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMap:
    """A worker's cache as others see it. Addresses and counts are in `layout.fields` order."""

    worker_id: WorkerId
    epoch: Epoch
    segment: str
    """The transport's name for this process."""
    layout: CacheLayout
    base_addresses: tuple[int, ...]
    num_units: tuple[int, ...]

    def __post_init__(self) -> None:
        expected = len(self.layout.fields)
        if not len(self.base_addresses) == len(self.num_units) == expected:
            raise ValueError(
                f"{self.worker_id}: expected {expected} addresses and unit counts, one per field, "
                f"got {len(self.base_addresses)} and {len(self.num_units)}"
            )
        require_name("a memory map's worker", self.worker_id)
        require_epoch(f"the epoch of {self.worker_id}", self.epoch)
        require_name(f"the segment of {self.worker_id}", self.segment)

    def region(self, field_index: int) -> FieldRegion:
        return FieldRegion(
            field=self.layout.fields[field_index],
            base_address=self.base_addresses[field_index],
            num_units=self.num_units[field_index],
        )

    def regions(self) -> Iterator[FieldRegion]:
        """In the layout's field order. A transport registers these."""
        return (self.region(index) for index in range(len(self.layout.fields)))

    def address(self, field_index: int, unit: int) -> int:
        """The address of a unit's first byte. Raises IndexError if there is no such unit."""
        return self.region(field_index).address(unit)


def memory_map_of(
    fields: Iterable[tuple[CacheField, Array]],
    *,
    worker_id: WorkerId,
    epoch: Epoch,
    segment: str,
    layout: CacheLayout,
) -> MemoryMap:
    """Describes allocated arrays [num_units, *shape], given in layout order.

    The map holds addresses, not the arrays: the caller must keep them alive.
    """
    arrays = [array for _, array in fields]
    return MemoryMap(
        worker_id=worker_id,
        epoch=epoch,
        segment=segment,
        layout=layout,
        base_addresses=tuple(array.data_ptr() for array in arrays),
        num_units=tuple(array.shape[0] for array in arrays),
    )


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
