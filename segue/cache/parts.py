"""Splits pages and slots over the ranks of a worker, and finds the bytes that move between ranks.

A unit of a field consists of a few sections, and a section of equal things. Each rank keeps a part
of every section, in the same order:

    kv         keys of each head, values of each head
    recurrent  each value head
    conv       each channel of the queries, of the keys, of the values
    hidden     one thing, so every rank has it

Two workers may have different numbers of ranks. Ranks that share a thing all have it, and each rank
of the receiver gets it from one of them. Pure. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from segue.cache.layout import STORED_BYTES, CacheField, CacheLayout
from segue.parallel.rank import Rank


class Section(NamedTuple):
    num_things: int
    """They are not split further."""
    bytes_each: int

    def part(self, rank: Rank) -> range:
        return rank.part(self.num_things)


class ByteSpan(NamedTuple):
    """Bytes that move, counted from the start of the unit on either side."""

    source_offset: int
    target_offset: int
    num_bytes: int


def layout_of_rank(layout: CacheLayout, rank: Rank) -> CacheLayout:
    """The layout of a rank's part. Raises ValueError if a field cannot be split."""
    if rank.count == 1:
        return layout
    return replace(
        layout, fields=tuple(field_of_rank(layout, field, rank) for field in layout.fields)
    )


def field_of_rank(layout: CacheLayout, field: CacheField, rank: Rank) -> CacheField:
    """Raises ValueError if the field cannot be split."""
    if rank.count == 1:
        return field
    return replace(field, shape=_shape_of_rank(layout, field, rank))


def spans(
    layout: CacheLayout, field: CacheField, source: Rank, target: Rank
) -> tuple[ByteSpan, ...]:
    """The bytes of each unit that rank `source` of a writer sends to rank `target` of a reader.
    `layout` is that of whole units, which both workers share."""
    if source.count == target.count == 1:
        return (ByteSpan(0, 0, field.unit_bytes),)
    found: list[ByteSpan] = []
    source_start = target_start = 0
    for section in _sections(layout, field):
        ours, theirs = section.part(source), section.part(target)
        first, stop = max(ours.start, theirs.start), min(ours.stop, theirs.stop)
        if first < stop and _sends(section, source, target):
            found.append(
                ByteSpan(
                    source_start + (first - ours.start) * section.bytes_each,
                    target_start + (first - theirs.start) * section.bytes_each,
                    (stop - first) * section.bytes_each,
                )
            )
        source_start += len(ours) * section.bytes_each
        target_start += len(theirs) * section.bytes_each
    return tuple(_joined(found))


def _sends(section: Section, source: Rank, target: Rank) -> bool:
    """Whether the source is the one rank, of those that share its part, that serves the target."""
    num_sharing = max(source.count // section.num_things, 1)
    return source.index % num_sharing == target.index % num_sharing


def _joined(found: list[ByteSpan]) -> Iterator[ByteSpan]:
    """Neighbours on both sides as one span."""
    if not found:
        return
    open_span = found[0]
    for before, after in pairwise(found):
        source_gap = after.source_offset - before.source_offset - before.num_bytes
        target_gap = after.target_offset - before.target_offset - before.num_bytes
        if source_gap or target_gap:
            yield open_span
            open_span = after
        else:
            open_span = open_span._replace(num_bytes=open_span.num_bytes + after.num_bytes)
    yield open_span


def _sections(layout: CacheLayout, field: CacheField) -> tuple[Section, ...]:
    size = STORED_BYTES[field.dtype]
    match field.group:
        case "kv":
            _, heads, tokens, head_dim = field.shape
            return (Section(heads, tokens * head_dim * size),) * 2
        case "recurrent":
            heads, k_dim, v_dim = field.shape
            return (Section(heads, k_dim * v_dim * size),)
        case "conv":
            queries, values = _conv_widths(layout, field)
            each = field.shape[1] * size
            return Section(queries, each), Section(queries, each), Section(values, each)
        case "hidden":
            return (Section(1, field.unit_bytes),)
    raise ValueError(f"no rule for splitting {field.group} over ranks")


def _shape_of_rank(layout: CacheLayout, field: CacheField, rank: Rank) -> tuple[int, ...]:
    shape = field.shape
    parts = [len(section.part(rank)) for section in _sections(layout, field)]
    match field.group:
        case "kv":
            return (shape[0], parts[0], *shape[2:])
        case "hidden":
            return shape
    return (sum(parts), *shape[1:])


def _conv_widths(layout: CacheLayout, field: CacheField) -> tuple[int, int]:
    """Channels of the queries (and of the keys), and of the values, which have the width of the
    layer's recurrent state."""
    recurrent = next(f for f in layout.fields if (f.group, f.layer) == ("recurrent", field.layer))
    values = recurrent.shape[0] * recurrent.shape[2]
    return (field.shape[0] - values) // 2, values
