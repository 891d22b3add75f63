"""Converts the values of handoffs to protobuf and back: `x_to_wire` / `x_from_wire`."""

from __future__ import annotations

from collections.abc import Iterable

from kv_transfer.layout import MemoryMap, RankMemory
from kv_transfer.ticket import Checksums, PeerIdentity, Ticket, TicketId
from segue.api.checks import MAX_NAME_CHARS, one_of, require, require_name
from segue.api.errors import InvalidRequest
from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.internal.v1 import transfer_pb2 as pb
from segue.wire.convert.same_names import enum_tables, message_of, value_of

_MAX_RANKS = 64
# kv, recurrent, conv, hidden: once for each pair of ranks that exchange bytes.
_MAX_CHECKSUMS = 4 * 2 * _MAX_RANKS
_UNIT_TO_WIRE, _UNIT_FROM_WIRE = enum_tables(pb.CacheUnit, {unit: unit.name for unit in Unit})


def layout_to_wire(layout: CacheLayout) -> pb.CacheLayout:
    return message_of(
        pb.CacheLayout,
        layout,
        fields=[
            message_of(pb.CacheField, field, unit=_UNIT_TO_WIRE[field.unit])
            for field in layout.fields
        ],
    )


def layout_from_wire(layout: pb.CacheLayout) -> CacheLayout:
    """Raises InvalidRequest if a field is invalid."""
    try:
        fields = tuple(
            value_of(CacheField, field, unit=one_of("unit", _UNIT_FROM_WIRE, field.unit))
            for field in layout.fields
        )
        return value_of(CacheLayout, layout, fields=fields)
    except ValueError as error:
        raise InvalidRequest(f"not a cache layout: {error}") from error


def memory_map_to_wire(memory_map: MemoryMap) -> pb.MemoryMap:
    return message_of(
        pb.MemoryMap,
        memory_map,
        layout=layout_to_wire(memory_map.layout),
        followers=[message_of(pb.RankMemory, follower) for follower in memory_map.followers],
    )


def memory_map_from_wire(memory_map: pb.MemoryMap) -> MemoryMap:
    """Raises InvalidRequest if addresses and fields do not match."""
    layout = layout_from_wire(memory_map.layout)
    require(len(memory_map.followers) < _MAX_RANKS, f"a worker has at most {_MAX_RANKS} ranks")
    followers = tuple(value_of(RankMemory, follower) for follower in memory_map.followers)
    try:
        return value_of(MemoryMap, memory_map, layout=layout, followers=followers)
    except ValueError as error:
        raise InvalidRequest(f"not a memory map: {error}") from error


def ticket_to_wire(ticket: Ticket) -> pb.Ticket:
    reader = ticket.reader
    return message_of(
        pb.Ticket, ticket, worker_id=reader.worker_id, epoch=reader.epoch, address=reader.address
    )


def ticket_from_wire(ticket: pb.Ticket) -> Ticket:
    """Raises InvalidRequest."""
    return value_of(Ticket, ticket, reader=value_of(PeerIdentity, ticket))


def checksums_to_wire(checksums: Checksums) -> list[pb.GroupChecksum]:
    return [pb.GroupChecksum(group=group, crc32=crc) for group, crc in checksums.items()]


def checksums_from_wire(checksums: Iterable[pb.GroupChecksum]) -> dict[str, int]:
    """Raises InvalidRequest."""
    found: dict[str, int] = {}
    for checksum in checksums:
        require_name("a checksum's group", checksum.group)
        require(checksum.group not in found, f"two checksums of group {checksum.group!r}")
        require(len(found) < _MAX_CHECKSUMS, f"a handoff has at most {_MAX_CHECKSUMS} checksums")
        found[checksum.group] = checksum.crc32
    return found


def ticket_id_from_wire(ticket_id: str) -> TicketId:
    """Raises InvalidRequest."""
    require_name("ticket_id", ticket_id, max_chars=2 * MAX_NAME_CHARS)
    return TicketId(ticket_id)
