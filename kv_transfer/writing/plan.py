"""Plans which bytes of a turn go where, in as few fragments as the two memories allow.

    source units   4 5 6 . 9        pairs (4,0) (5,1) (6,7) (9,8)
    target units   0 1 ... 7 8      ⇒ [4,5]→[0,1]   [6]→[7]   [9]→[8]

Units that are adjacent on both sides become one fragment. Each field is planned separately: two
adjacent arrays are registered separately, and a transport may refuse a fragment that spans both.
Pure: nothing here reads memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kv_transfer.layout import FieldRegion, MemoryMap
from kv_transfer.ticket import Ticket
from segue.api.errors import InvalidRequest
from segue.api.types import PageId, SlotId
from segue.cache.layout import CacheField, Unit
from segue.cache.parts import ByteSpan, spans
from segue.parallel.rank import FIRST_OF_ONE, Rank


@dataclass(frozen=True, slots=True)
class Fragment:
    """One contiguous run of bytes, with its address in each of the two processes."""

    source_address: int
    target_address: int
    num_bytes: int


def plan_units(
    source: FieldRegion,
    target: FieldRegion,
    pairs: Iterable[tuple[int, int]],
    parts: Sequence[ByteSpan] = (),
) -> list[Fragment]:
    """Fragments that copy each source unit to its target unit, in order of source address: whole
    units, or these parts of them.

    Raises ValueError if two sources have the same target, IndexError if a unit does not exist.
    """
    parts = parts or (ByteSpan(0, 0, source.unit_bytes),)
    fragments: list[Fragment] = []
    ordered = sorted(pairs)
    if len({to for _, to in ordered}) != len(ordered):
        raise ValueError(f"two {source.field.unit}s have the same target: {ordered}")
    for source_unit, target_unit in ordered:
        from_address, to_address = source.address(source_unit), target.address(target_unit)
        for from_offset, to_offset, num_bytes in parts:
            one = Fragment(from_address + from_offset, to_address + to_offset, num_bytes)
            if fragments and _touch(fragments[-1], one):
                last = fragments.pop()
                one = Fragment(last.source_address, last.target_address, last.num_bytes + num_bytes)
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
    """Splits the fragments, in order, into batches of at most `max_items` and `max_bytes`.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Units of one field that became ready together, numbered from the first that is shipped."""

    field_index: int
    field: CacheField
    numbers: range

    @property
    def num_bytes(self) -> int:
        return len(self.numbers) * self.field.unit_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRoute:
    """The source and the target of a turn's units."""

    ticket: Ticket
    source: MemoryMap
    target: MemoryMap
    source_pages: Sequence[PageId]
    """All pages of the prompt in sequence order. The reader holds the resident ones already."""
    source_slot: SlotId
    rank: Rank = FIRST_OF_ONE
    """The rank that sends its part from here."""

    def __post_init__(self) -> None:
        """Raises InvalidRequest if the ticket names units that do not exist, or too many or few
        pages."""
        ticket = self.ticket
        _require_units(ticket, self.target)
        num_shipped = max(len(self.source_pages) - self.first_page, 0)
        if num_shipped != self.num_pages:
            raise InvalidRequest(
                f"ticket {ticket.ticket_id} has {self.num_pages} pages after the first "
                f"{self.first_page}, the prompt has {num_shipped}"
            )

    @property
    def first_page(self) -> int:
        """The sequence's first page to ship."""
        return self.ticket.resident_tokens // self.source.layout.page_tokens

    @property
    def num_pages(self) -> int:
        return len(self.ticket.page_ids)

    def parts(self, field_index: int) -> Iterator[tuple[Rank, Sequence[ByteSpan]]]:
        """The target's ranks that get a part of a field's units from here, with these parts."""
        layout = self.source.layout
        for target in self.target.ranks:
            if found := spans(layout, layout.fields[field_index], self.rank, target):
                yield target, found

    def pieces(self, layer: int, pages: range, *, with_slot: bool) -> Iterator[Piece]:
        """The pieces of a layer to ship when these pages (0 is the sequence's first) are ready."""
        first = self.first_page
        numbers = {
            Unit.PAGE: range(max(0, pages.start - first), pages.stop - first),
            Unit.SLOT: range(1 if with_slot else 0),
        }
        if numbers[Unit.PAGE] and numbers[Unit.PAGE].stop > self.num_pages:
            raise ValueError(
                f"pages {pages} are ready, but the ticket ends before page {first + self.num_pages}"
            )
        for index, field in enumerate(self.source.layout.fields):
            if field.layer == layer and numbers[field.unit]:
                yield Piece(field_index=index, field=field, numbers=numbers[field.unit])

    def pairs(self, piece: Piece) -> Iterable[tuple[int, int]]:
        if piece.field.unit is Unit.SLOT:
            return [(self.source_slot, self.ticket.slot_id)]
        first, target_pages = self.first_page, self.ticket.page_ids
        return [(self.source_pages[first + n], target_pages[n]) for n in piece.numbers]

    def num_units(self, field: CacheField) -> int:
        return self.num_pages if field.unit is Unit.PAGE else 1


def _require_units(ticket: Ticket, target: MemoryMap) -> None:
    """The ticket's units must exist: addresses are computed from them."""
    page_tokens = target.layout.page_tokens
    if ticket.resident_tokens % page_tokens:
        raise InvalidRequest(
            f"ticket {ticket.ticket_id} starts after {ticket.resident_tokens} tokens, which is not "
            f"a page boundary: a page has {page_tokens}"
        )
    named = {Unit.PAGE: max(ticket.page_ids, default=0), Unit.SLOT: ticket.slot_id}
    for region in target.regions():
        highest = named[region.field.unit]
        if highest >= region.num_units:
            raise InvalidRequest(
                f"ticket {ticket.ticket_id} names {region.field.unit} {highest}, but "
                f"{target.worker_id} has {region.num_units}"
            )
