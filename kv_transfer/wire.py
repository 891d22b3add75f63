"""Values to protobuf and back, in pairs `x_to_wire` / `x_from_wire`: what reader and writer say."""

from __future__ import annotations

from collections.abc import Iterable

from kv_transfer.layout import MemoryMap
from kv_transfer.ticket import Checksums, PeerIdentity, Ticket, TicketId
from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.checks import MAX_NAME_CHARS, one_of, require, require_name
from segue.errors import InvalidRequest
from segue.internal.v1 import transfer_pb2 as pb
from segue.types import Epoch, PageId, SlotId, TurnId, WorkerId

# kv, recurrent, conv, hidden, and room for more.
_MAX_GROUPS = 64
_UNIT_TO_WIRE = {Unit.PAGE: pb.CACHE_UNIT_PAGE, Unit.SLOT: pb.CACHE_UNIT_SLOT}
_UNIT_FROM_WIRE = {wire: unit for unit, wire in _UNIT_TO_WIRE.items()}


def layout_to_wire(layout: CacheLayout) -> pb.CacheLayout:
    return pb.CacheLayout(
        model_id=layout.model_id,
        page_tokens=layout.page_tokens,
        fields=[
            pb.CacheField(
                group=field.group,
                layer=field.layer,
                unit=_UNIT_TO_WIRE[field.unit],
                dtype=field.dtype,
                shape=field.shape,
            )
            for field in layout.fields
        ],
    )


def layout_from_wire(layout: pb.CacheLayout) -> CacheLayout:
    """Raises InvalidRequest for a field that cannot exist."""
    try:
        fields = tuple(
            CacheField(
                group=field.group,
                layer=field.layer,
                unit=one_of("unit", _UNIT_FROM_WIRE, field.unit),
                dtype=field.dtype,
                shape=tuple(field.shape),
            )
            for field in layout.fields
        )
        return CacheLayout(model_id=layout.model_id, page_tokens=layout.page_tokens, fields=fields)
    except ValueError as error:
        raise InvalidRequest(f"not a cache layout: {error}") from error


def memory_map_to_wire(memory_map: MemoryMap) -> pb.MemoryMap:
    return pb.MemoryMap(
        worker_id=memory_map.worker_id,
        epoch=memory_map.epoch,
        segment=memory_map.segment,
        layout=layout_to_wire(memory_map.layout),
        base_addresses=memory_map.base_addresses,
        num_units=memory_map.num_units,
    )


def memory_map_from_wire(memory_map: pb.MemoryMap) -> MemoryMap:
    """Raises InvalidRequest when addresses and fields do not match."""
    layout = layout_from_wire(memory_map.layout)
    try:
        return MemoryMap(
            worker_id=WorkerId(memory_map.worker_id),
            epoch=Epoch(memory_map.epoch),
            segment=memory_map.segment,
            layout=layout,
            base_addresses=tuple(memory_map.base_addresses),
            num_units=tuple(memory_map.num_units),
        )
    except ValueError as error:
        raise InvalidRequest(f"not a memory map: {error}") from error


def ticket_to_wire(ticket: Ticket) -> pb.Ticket:
    return pb.Ticket(
        ticket_id=ticket.ticket_id,
        turn_id=ticket.turn_id,
        worker_id=ticket.reader.worker_id,
        epoch=ticket.reader.epoch,
        address=ticket.reader.address,
        resident_tokens=ticket.resident_tokens,
        page_ids=ticket.page_ids,
        slot_id=ticket.slot_id,
        expires_in_s=ticket.expires_in_s,
        seal=ticket.seal,
    )


def ticket_from_wire(ticket: pb.Ticket) -> Ticket:
    """Raises InvalidRequest."""
    return Ticket(
        ticket_id=TicketId(ticket.ticket_id),
        turn_id=TurnId(ticket.turn_id),
        reader=PeerIdentity(
            worker_id=WorkerId(ticket.worker_id),
            epoch=Epoch(ticket.epoch),
            address=ticket.address,
        ),
        resident_tokens=ticket.resident_tokens,
        page_ids=tuple(PageId(page) for page in ticket.page_ids),
        slot_id=SlotId(ticket.slot_id),
        expires_in_s=ticket.expires_in_s,
        seal=ticket.seal,
    )


def checksums_to_wire(checksums: Checksums) -> list[pb.GroupChecksum]:
    return [pb.GroupChecksum(group=group, crc32=crc) for group, crc in checksums.items()]


def checksums_from_wire(checksums: Iterable[pb.GroupChecksum]) -> dict[str, int]:
    """Raises InvalidRequest."""
    found: dict[str, int] = {}
    for checksum in checksums:
        require_name("a checksum's group", checksum.group)
        require(checksum.group not in found, f"two checksums of group {checksum.group!r}")
        require(len(found) < _MAX_GROUPS, f"a cache has at most {_MAX_GROUPS} groups of fields")
        found[checksum.group] = checksum.crc32
    return found


def ticket_id_from_wire(ticket_id: str) -> TicketId:
    """Raises InvalidRequest."""
    require_name("ticket_id", ticket_id, max_chars=2 * MAX_NAME_CHARS)
    return TicketId(ticket_id)
