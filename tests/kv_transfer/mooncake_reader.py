"""A reader in a separate process. Allocates, registers, then answers one JSON command per line on
stdin. Arguments: its name, its layout and its number of pages.
"""

from __future__ import annotations

import asyncio
import base64
import ctypes
import hashlib
import json
import os
import sys
from typing import Any

from kv_transfer.config import TransferConfig
from kv_transfer.reading.reader import HandoffReader
from kv_transfer.reading.reservations import Reservation
from kv_transfer.ticket import PeerIdentity, TicketId
from kv_transfer.transport.mooncake import MooncakeTransport
from kv_transfer.transport.transport import registered
from kv_transfer.wire import layout_from_wire, memory_map_to_wire, ticket_to_wire
from segue.api.errors import SegueError
from segue.api.types import Epoch, TurnId, WorkerId
from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.cache.memory import UnitPools
from segue.cache.unit_pool import page_pool, slot_pool
from segue.internal.v1 import transfer_pb2 as pb


class Bytes:
    """An array that `registered` accepts."""

    def __init__(self, field: CacheField, num_units: int) -> None:
        self._unit_bytes = field.unit_bytes
        self.raw = bytearray(num_units * field.unit_bytes)
        self.shape = (num_units, field.unit_bytes)

    def data_ptr(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self.raw))

    def unit(self, number: int) -> bytes:
        return bytes(self.raw[number * self._unit_bytes : (number + 1) * self._unit_bytes])


class Target:
    def __init__(self, name: str, layout: CacheLayout, num_pages: int) -> None:
        self.pools = UnitPools(pages=page_pool(num_pages), slots=slot_pool(2))
        num_units = {Unit.PAGE: num_pages, Unit.SLOT: 2}
        self.arrays = [(field, Bytes(field, num_units[field.unit])) for field in layout.fields]
        self.transport = MooncakeTransport(TransferConfig())
        self.memory_map = registered(
            self.transport, self.arrays, worker_id=WorkerId(name), epoch=Epoch(1), layout=layout
        )
        self.reader = HandoffReader(
            pools=self.pools, memory_map=self.memory_map, address="unused:1"
        )
        self.reservations: dict[TicketId, Reservation] = {}

    async def answer(self, command: str, arguments: dict[str, Any]) -> Any:
        match command:
            case "map":
                return _text(memory_map_to_wire(self.memory_map))
            case "reserve":
                writer = PeerIdentity(
                    worker_id=WorkerId("prefill-0"), epoch=Epoch(1), address="unused:2"
                )
                reservation = self.reader.reserve(
                    TurnId(arguments["turn"]),
                    num_prompt_tokens=arguments["num_tokens"],
                    extra_tokens=0,
                    writer=writer,
                    lifetime_s=60.0,
                )
                self.reservations[reservation.ticket.ticket_id] = reservation
                return _text(ticket_to_wire(reservation.ticket))
            case "commit":
                ticket_id = TicketId(arguments["ticket_id"])
                await self.reader.commit(ticket_id, Epoch(1), arguments["checksums"])
                arrival = await self.reservations[ticket_id].arrived()
                return self.digest(arrival.pages, arrival.slot)
            case "count":
                return self.count(arguments["value"])
            case _:
                raise ValueError(command)

    def digest(self, pages: tuple[int, ...], slot: int) -> str:
        digest = hashlib.sha256()
        for field, array in self.arrays:
            for unit in pages if field.unit is Unit.PAGE else (slot,):
                digest.update(array.unit(unit))
        return digest.hexdigest()

    def count(self, value: int) -> int:
        """The number of bytes with this value."""
        return sum(array.raw.count(value) for _, array in self.arrays)


def _text(message: pb.MemoryMap | pb.Ticket) -> str:
    return base64.b64encode(message.SerializeToString()).decode()


def main() -> None:
    asyncio.run(_run())


async def _run() -> None:
    # Mooncake also logs to stdout, so the answers get their own descriptor.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    wire = pb.CacheLayout.FromString(base64.b64decode(sys.argv[2]))
    target = Target(sys.argv[1], layout_from_wire(wire), num_pages=int(sys.argv[3]))
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = {"ok": await target.answer(command.pop("command"), command)}
        except SegueError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
