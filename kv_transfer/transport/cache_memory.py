"""A worker's cache memory as handoffs see it, on the host or on a GPU, and checksums over it.

A thread that computes on a GPU only queues the work, so the shipping thread must wait for what is
"ready". Those bytes are not in the process's own memory.

Every unit (one page or the slot, of one field) has the CRC-32 of its bytes. A group's checksum is
the CRC-32 of its units' CRCs, each as four little-endian bytes: fields in layout order, and within
a field pages in sequence order. So the CRCs may be computed in the order in which units are ready.
If a worker has several ranks, each pair of a sending and a receiving rank has checksums of its own,
over the spans of each unit that move between the two, and each span has a CRC.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from isal import isal_zlib

from kv_transfer.layout import MemoryMap
from kv_transfer.ticket import Checksums
from segue.cache.layout import CacheLayout, Unit
from segue.cache.parts import spans
from segue.parallel.rank import FIRST_OF_ONE, Rank


class CacheMemory(Protocol):
    def crc32(self, address: int, num_bytes: int) -> int:
        """The CRC-32 of bytes that are complete. Any thread may call it."""
        ...

    def queued(self) -> Callable[[], None]:
        """A function that waits for all work that this thread has queued so far. Any thread may
        call the function."""
        ...


class HostMemory:
    """Host memory, where work is done when the call that computes it returns."""

    def crc32(self, address: int, num_bytes: int) -> int:
        return crc32_of_memory(address, num_bytes)

    def queued(self) -> Callable[[], None]:
        return _at_once


class GpuMemory:
    """Memory of the process's one GPU. CRCs are computed over copies, made on a separate stream:
    they do not wait for passes that are queued meanwhile."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's

    def crc32(self, address: int, num_bytes: int) -> int:
        with torch.cuda.stream(self._stream):
            bytes_N = torch.as_tensor(_Bytes(address, num_bytes), device="cuda")
            return isal_zlib.crc32(bytes_N.cpu().numpy())

    def queued(self) -> Callable[[], None]:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        event.record()
        done: Callable[[], None] = event.synchronize
        return done


def memory_on(device: torch.device) -> CacheMemory:
    return GpuMemory() if device.type == "cuda" else HostMemory()


class _Bytes:
    """Device memory at an address, in a form that torch wraps without a copy."""

    def __init__(self, address: int, num_bytes: int) -> None:
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": (num_bytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 2,
        }


def _at_once() -> None:
    pass


def crc32_of_memory(address: int, num_bytes: int) -> int:
    """The CRC-32 of this process's bytes, without a copy. They must stay mapped."""
    return isal_zlib.crc32((ctypes.c_char * num_bytes).from_address(address))


def combine(
    layout: CacheLayout,
    num_pages: int,
    crcs_of_unit: Callable[[int, int], Sequence[int]],
    *,
    source: Rank = FIRST_OF_ONE,
    target: Rank = FIRST_OF_ONE,
) -> dict[str, int]:
    """Checksums by group of what rank `source` sends to rank `target`, from the CRCs of the spans
    of unit number i of a field: `crcs_of_unit(field_index, i)`.

    Units are numbered as shipped: pages 0..num_pages-1, and the slot as unit 0.
    """
    packed: dict[str, bytearray] = {}
    for field_index, field in enumerate(layout.fields):
        crcs = packed.setdefault(field.group, bytearray())
        for number in range(num_pages if field.unit is Unit.PAGE else 1):
            for crc in crcs_of_unit(field_index, number):
                crcs += crc.to_bytes(4, "little")
    is_pair = source.count > 1 or target.count > 1
    between = f" {source.index}-{target.index}" if is_pair else ""
    return {
        group + between: isal_zlib.crc32(crcs)
        for group, crcs in packed.items()
        if crcs or not is_pair
    }


def checksums_of(
    memory_map: MemoryMap,
    page_ids: Sequence[int],
    slot_id: int,
    crc32: Callable[[int, int], int] = crc32_of_memory,
    *,
    sources: Sequence[Rank] = (FIRST_OF_ONE,),
    target: Rank = FIRST_OF_ONE,
) -> dict[str, int]:
    """Checksums of what the ranks `sources` have sent to rank `target` of this worker, which runs
    this: of its units. Takes 0.05 ms per MB; other threads run meanwhile."""
    layout = memory_map.layout
    regions = [memory_map.region(index, target) for index in range(len(layout.fields))]
    found: dict[str, int] = {}
    for source in sources:
        of_fields = [spans(layout, field, source, target) for field in layout.fields]

        def crcs_of_unit(field_index: int, number: int) -> Sequence[int]:
            field = layout.fields[field_index]
            unit = page_ids[number] if field.unit is Unit.PAGE else slot_id
            address = regions[field_index].address(unit)
            return [
                crc32(address + span.target_offset, span.num_bytes)
                for span in of_fields[field_index]  # noqa: B023  (called in this round)
            ]

        found |= combine(layout, len(page_ids), crcs_of_unit, source=source, target=target)
    return found


def difference(sent: Checksums, arrived: Checksums) -> str:
    """Names the groups that differ, for an error message. Empty if none does."""
    return "; ".join(
        f"{group}: sent {_hex(sent.get(group))}, arrived {_hex(arrived.get(group))}"
        for group in sorted({*sent, *arrived})
        if sent.get(group) != arrived.get(group)
    )


def _hex(crc: int | None) -> str:
    return "nothing" if crc is None else f"{crc:08x}"
