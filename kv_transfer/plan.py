"""Which bytes go where: units of one field, as few fragments as the two memories allow.

    source units   4 5 6 . 9        pairs (4,0) (5,1) (6,7) (9,8)
    target units   0 1 ... 7 8      ⇒ [4,5]→[0,1]   [6]→[7]   [9]→[8]

Neighbours on both sides become one fragment. Fields are planned one by one: two arrays that happen
to touch are registered apart, and a transport may refuse a fragment that crosses from one to the
other. Pure: nothing here reads memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kv_transfer.layout import FieldRegion


@dataclass(frozen=True, slots=True)
class Fragment:
    """One contiguous run of bytes. Addresses are of the two processes."""

    source_address: int
    target_address: int
    num_bytes: int


def plan_units(
    source: FieldRegion, target: FieldRegion, pairs: Iterable[tuple[int, int]]
) -> list[Fragment]:
    """Fragments that copy each source unit to its target unit, in order of source address.

    Raises ValueError when two sources go to one target, IndexError when a unit does not exist.
    """
    unit_bytes = source.field.unit_bytes
    fragments: list[Fragment] = []
    ordered = sorted(pairs)
    if len({to for _, to in ordered}) != len(ordered):
        raise ValueError(f"two {source.field.unit}s would be written to one place: {ordered}")
    for source_unit, target_unit in ordered:
        one = Fragment(source.address(source_unit), target.address(target_unit), unit_bytes)
        if fragments and _touch(fragments[-1], one):
            last = fragments.pop()
            one = Fragment(last.source_address, last.target_address, last.num_bytes + unit_bytes)
        fragments.append(one)
    return fragments


def _touch(first: Fragment, second: Fragment) -> bool:
    return (
        first.source_address + first.num_bytes == second.source_address
        and first.target_address + first.num_bytes == second.target_address
    )


def batches(
    fragments: Sequence[Fragment], *, max_items: int, max_bytes: int
) -> Iterator[list[Fragment]]:
    """The same bytes in the same order, at most so many fragments and bytes at a time.

    A fragment larger than `max_bytes` is cut.
    """
    batch: list[Fragment] = []
    batch_bytes = 0
    for fragment in (piece for whole in fragments for piece in _cut(whole, max_bytes)):
        if batch and (len(batch) == max_items or batch_bytes + fragment.num_bytes > max_bytes):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(fragment)
        batch_bytes += fragment.num_bytes
    if batch:
        yield batch


def _cut(fragment: Fragment, max_bytes: int) -> Iterator[Fragment]:
    for offset in range(0, fragment.num_bytes, max_bytes):
        yield Fragment(
            fragment.source_address + offset,
            fragment.target_address + offset,
            min(max_bytes, fragment.num_bytes - offset),
        )
