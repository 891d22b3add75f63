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
from segue.api.errors import InvalidRequest
from segue.api.types import Epoch, PageId, SlotId, TurnId, WorkerId
from segue.internal.v1 import transfer_pb2 as pb
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
        seal=b"s" * 32,
    )

    assert ticket_from_wire(ticket_to_wire(ticket)) == ticket


def test_checksums_survive_the_wire() -> None:
    checksums = {"kv": 0xFFFFFFFF, "conv": 0}

    assert checksums_from_wire(checksums_to_wire(checksums)) == checksums


@pytest.mark.parametrize(
    "change",
    [{"unit": 0}, {"unit": 99}, {"dtype": "int3"}, {"shape": [0]}],
)
def test_a_field_that_cannot_exist_is_refused(change: dict[str, object]) -> None:
    wire = layout_to_wire(LAYOUT)
    field = {
        "group": "kv",
        "layer": 0,
        "unit": pb.CACHE_UNIT_PAGE,
        "dtype": "float32",
        "shape": [1],
    } | change
    wire.fields.append(pb.CacheField(**field))  # type: ignore[arg-type]  # mixed values

    with pytest.raises(InvalidRequest, match="not a cache layout"):
        layout_from_wire(wire)


def test_a_map_without_an_address_for_every_field_is_refused(world: World) -> None:
    wire = memory_map_to_wire(world.node("decode-0").memory_map)
    del wire.base_addresses[0]

    with pytest.raises(InvalidRequest, match="not a memory map: decode-0: expected 6 addresses"):
        memory_map_from_wire(wire)


TICKET = pb.Ticket(
    ticket_id="t",
    turn_id="turn",
    worker_id="decode-0",
    epoch=1,
    address="127.0.0.1:7000",
    resident_tokens=4,
    page_ids=[3, 1],
    slot_id=0,
    expires_in_s=5.0,
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ticket_id": ""}, "ticket_id must not be empty"),
        ({"ticket_id": "t" * 513}, "ticket_id must have at most"),
        ({"turn_id": ""}, "turn_id must not be empty"),
        ({"worker_id": ""}, "name must not be empty"),
        ({"epoch": 0}, "must be an epoch"),
        ({"address": "decode-0"}, "must be host:port"),
        ({"page_ids": [3, 1, 3]}, "names a page more than once"),
        ({"expires_in_s": float("nan")}, "expires_in_s must be between"),
        ({"expires_in_s": -1.0}, "expires_in_s must be between"),
        ({"expires_in_s": 1e9}, "expires_in_s must be between"),
        ({"seal": b"s" * 65}, "seal is too long"),
    ],
)
def test_an_invalid_ticket_is_refused(change: dict[str, object], reason: str) -> None:
    wire = pb.Ticket()
    wire.CopyFrom(TICKET)
    assert ticket_from_wire(wire).turn_id == "turn"
    for name in change:
        wire.ClearField(name)
    wire.MergeFrom(pb.Ticket(**change))  # type: ignore[arg-type]  # a test's values

    with pytest.raises(InvalidRequest, match=reason):
        ticket_from_wire(wire)


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        (["kv", "kv"], "two checksums of group 'kv'"),
        ([""], "group must not be empty"),
        (["g" * 300], "group must have at most"),
        ([str(n) for n in range(513)], "at most 512 checksums"),
    ],
)
def test_invalid_checksums_are_refused(groups: list[str], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        checksums_from_wire([pb.GroupChecksum(group=group) for group in groups])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"worker_id": ""}, "worker must not be empty"),
        ({"epoch": 0}, "must be an epoch"),
        ({"segment": ""}, "segment of decode-0 must not be empty"),
    ],
)
def test_a_map_without_an_owner_is_refused(
    world: World, change: dict[str, object], reason: str
) -> None:
    wire = memory_map_to_wire(world.node("decode-0").memory_map)
    for name, value in change.items():
        setattr(wire, name, value)

    with pytest.raises(InvalidRequest, match=reason):
        memory_map_from_wire(wire)


@pytest.mark.parametrize("page_tokens", [0, 2**31])
def test_a_layout_with_absurd_pages_is_refused(page_tokens: int) -> None:
    wire = layout_to_wire(LAYOUT)
    wire.page_tokens = page_tokens

    with pytest.raises(InvalidRequest, match="page_tokens must be between 1"):
        layout_from_wire(wire)
