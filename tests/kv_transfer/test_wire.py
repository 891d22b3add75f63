from __future__ import annotations

import dataclasses

import pytest

from kv_transfer.ticket import PeerIdentity, Ticket, TicketId
from kv_transfer.wire import (
    checksums_from_wire,
    checksums_to_wire,
    layout_from_wire,
    layout_to_wire,
    memory_map_from_wire,
    memory_map_to_wire,
    ticket_from_wire,
    ticket_to_wire,
)
from segue.errors import InvalidRequest
from segue.types import Epoch, PageId, SlotId, TurnId, WorkerId
from segue.wire import transfer_pb2 as pb
from tests.kv_transfer.world import LAYOUT, World


def test_a_layout_survives_the_wire() -> None:
    assert layout_from_wire(layout_to_wire(LAYOUT)) == LAYOUT


def test_a_memory_map_survives_the_wire(world: World) -> None:
    # Addresses above 2**63 are real on some machines.
    memory_map = dataclasses.replace(
        world.node("decode-0").memory_map, base_addresses=tuple(2**64 - 1 - i for i in range(6))
    )

    assert memory_map_from_wire(memory_map_to_wire(memory_map)) == memory_map


def test_a_ticket_survives_the_wire() -> None:
    ticket = Ticket(
        ticket_id=TicketId("decode-0-5-1"),
        turn_id=TurnId("turn-a"),
        reader=PeerIdentity(
            worker_id=WorkerId("decode-0"), epoch=Epoch(2**63 - 1), address="10.0.0.1:7000"
        ),
        resident_tokens=128,
        page_ids=(PageId(9), PageId(0), PageId(4)),
        slot_id=SlotId(2),
        expires_in_s=12.5,
    )

    assert ticket_from_wire(ticket_to_wire(ticket)) == ticket


def test_checksums_survive_the_wire() -> None:
    checksums = {"kv": 0xFFFFFFFF, "conv": 0}

    assert checksums_from_wire(checksums_to_wire(checksums)) == checksums


@pytest.mark.parametrize(
    "change",
    [{"unit": "block"}, {"dtype": "int3"}, {"shape": [0]}],
)
def test_a_field_that_cannot_exist_is_refused(change: dict[str, object]) -> None:
    wire = layout_to_wire(LAYOUT)
    field = {"group": "kv", "layer": 0, "unit": "page", "dtype": "float32", "shape": [1]} | change
    wire.fields.append(pb.CacheField(**field))  # type: ignore[arg-type]  # mixed values

    with pytest.raises(InvalidRequest, match="not a cache layout"):
        layout_from_wire(wire)


def test_a_map_without_an_address_for_every_field_is_refused(world: World) -> None:
    wire = memory_map_to_wire(world.node("decode-0").memory_map)
    del wire.base_addresses[0]

    with pytest.raises(InvalidRequest, match="not a memory map: decode-0: expected 6 addresses"):
        memory_map_from_wire(wire)
