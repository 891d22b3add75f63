"""Copies pages and slots between two allocations of one layout: the device's and the host's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from segue.cache.layout import Unit
from segue.cache.tensors import CacheTensors


def copy_units(
    source: CacheTensors,
    target: CacheTensors,
    unit: Unit,
    from_units: Sequence[int],
    to_units: Sequence[int],
) -> None:
    """Copies all fields of `from_units[i]` to `to_units[i]`. Returns when the copy is complete.

    Any thread may call it: it touches nothing but these units.
    """
    spans = list(_spans(from_units, to_units))
    for field, to in target.fields():
        if field.unit is unit:
            tensor = source.of(field.group, field.layer)
            for from_start, to_start, length in spans:
                # Without `non_blocking`, copy_ between device and host is synchronous.
                to[to_start : to_start + length].copy_(tensor[from_start : from_start + length])


def _spans(from_units: Sequence[int], to_units: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Merges units that are neighbours on both sides: first source, first target, length."""
    start = 0
    for i in range(1, len(from_units) + 1):
        is_neighbour = (
            i < len(from_units)
            and from_units[i] == from_units[i - 1] + 1
            and to_units[i] == to_units[i - 1] + 1
        )
        if not is_neighbour:
            yield from_units[start], to_units[start], i - start
            start = i
