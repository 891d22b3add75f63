"""Access to a worker's cache memory for handoffs, on the host or on a GPU, and checksums over it.

A thread that computes on a GPU only queues the work, so the shipping thread must wait until "ready"
bytes are computed. They are not in the process's own memory.

Every unit (one page or the slot, of one field) has the CRC-32 of its bytes. A group's checksum is
the CRC-32 of its units' CRCs, each as four little-endian bytes: fields in layout order, and within
a field pages in sequence order. So the CRCs may be computed in the order in which units are ready.
With several ranks, each pair of a sending and a receiving rank has checksums of its own, over the
spans of each unit that move between the two, and each span has a CRC.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from isal import isal_zlib
from torch import Tensor

from kv_transfer.layout import MemoryMap
from kv_transfer.ticket import Checksums
from segue.cache.layout import CacheLayout, Unit
from segue.cache.parts import spans
from segue.parallel.rank import FIRST_OF_ONE, Rank

Place = tuple[int, int]
"""An address, and a number of bytes."""
_GATHERED_BYTES = 64 << 20
"""Most GPU memory to copy at once."""


class CacheMemory(Protocol):
    def crcs(self, places: Sequence[Place]) -> Sequence[int]:
        """The CRC-32 of each place, whose bytes are complete. Any thread may call it."""
        ...

    def queued(self) -> Callable[[], None]:
        """Returns a function that waits for all work that this thread has queued so far. Any thread
        may call that function."""
        ...


class HostMemory:
    """Host memory: work is done when the call that computes it returns."""

    def crc32(self, address: int, num_bytes: int) -> int:
        """Without a copy: the bytes must stay mapped."""
        return isal_zlib.crc32((ctypes.c_char * num_bytes).from_address(address))

    def crcs(self, places: Sequence[Place]) -> Sequence[int]:
        return [self.crc32(*place) for place in places]

    def queued(self) -> Callable[[], None]:
        return lambda: None


class GpuMemory:
    """Memory of the process's one GPU. CRCs are computed over copies, made on a separate stream:
    they do not wait for passes that are queued at the same time. Many places are one copy, because
    a copy takes some 60 µs, and a prompt of 50,000 tokens has 28,000 places."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's

    def crcs(self, places: Sequence[Place]) -> Sequence[int]:
        found: list[int] = []
        with torch.cuda.stream(self._stream):
            for base, offsets, num_bytes in runs(places, _GATHERED_BYTES):
                last = max(offsets) + num_bytes
                bytes_N = torch.as_tensor(_Bytes(base, last), device="cuda")
                rows_RN = gathered(bytes_N, offsets, num_bytes)
                copy_RN = torch.empty(rows_RN.shape, dtype=torch.uint8, pin_memory=True)
                # Waits for the copy.
                found += map(isal_zlib.crc32, copy_RN.copy_(rows_RN).numpy())
        return found

    def queued(self) -> Callable[[], None]:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        event.record()
        done: Callable[[], None] = event.synchronize
        return done


def runs(places: Sequence[Place], most_bytes: int) -> Iterator[tuple[int, list[int], int]]:
    """Consecutive places of one size, as a first address, offsets from it, and the size. Together
    they have at most `most_bytes`, unless it is one place."""
    first = 0
    for end in range(1, len(places) + 1):
        num_bytes = places[first][1]
        is_full = (end - first + 1) * num_bytes > most_bytes
        if end == len(places) or places[end][1] != num_bytes or is_full:
            base = min(address for address, _ in places[first:end])
            yield base, [address - base for address, _ in places[first:end]], num_bytes
            first = end


def gathered(bytes_N: Tensor, offsets: Sequence[int], num_bytes: int) -> Tensor:
    """One row [R, num_bytes] for each offset, gathered by one operation on the bytes' device."""
    step = math.gcd(num_bytes, *offsets)
    # Words are gathered faster than bytes.
    is_aligned = step % 8 == 0 and bytes_N.data_ptr() % 8 == 0
    words_N = bytes_N[: len(bytes_N) // 8 * 8].view(torch.int64) if is_aligned else bytes_N
    size = words_N.element_size()
    num_windows = (len(bytes_N) - num_bytes) // step + 1
    windows = words_N.as_strided((num_windows, num_bytes // size), (step // size, 1))
    rows = torch.tensor([offset // step for offset in offsets], device=bytes_N.device)
    return windows.index_select(0, rows).view(torch.uint8)


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


def combine(
    layout: CacheLayout,
    crcs_of_field: Callable[[int], Iterable[int]],
    *,
    source: Rank = FIRST_OF_ONE,
    target: Rank = FIRST_OF_ONE,
) -> dict[str, int]:
    """Checksums by group of the bytes that rank `source` sends to rank `target`, from the CRCs of
    the spans of all units of a field, in order: `crcs_of_field(field_index)`."""
    packed: dict[str, bytearray] = {}
    for index, field in enumerate(layout.fields):
        crcs = packed.setdefault(field.group, bytearray())
        for crc in crcs_of_field(index):
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
    memory: CacheMemory = HostMemory(),  # noqa: B008  (has no state)
    *,
    sources: Sequence[Rank] = (FIRST_OF_ONE,),
    target: Rank = FIRST_OF_ONE,
) -> dict[str, int]:
    """Checksums of these units as the ranks `sources` have sent them to rank `target` of this
    worker, which is this process. Takes 0.05 ms per MB; other threads keep running."""
    layout = memory_map.layout

    def crcs_of_field(source: Rank, index: int) -> Sequence[int]:
        field, region = layout.fields[index], memory_map.region(index, target)
        units = page_ids if field.unit is Unit.PAGE else [slot_id]
        parts = spans(layout, field, source, target)
        return memory.crcs(
            [
                (region.address(unit) + part.target_offset, part.num_bytes)
                for unit in units
                for part in parts
            ]
        )

    found: dict[str, int] = {}
    for source in sources:
        found |= combine(layout, partial(crcs_of_field, source), source=source, target=target)
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
