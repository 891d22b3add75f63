"""The memory that a worker's cache is in, as far as handoffs must know: on the host or on a GPU.

Whoever computes on a GPU only queues the work. So what is "ready" must be waited for by the thread
that ships it, and its bytes are not this process' memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Protocol

import torch

from kv_transfer.checksum import crc32_of_memory


class CacheMemory(Protocol):
    def crc32(self, address: int, num_bytes: int) -> int:
        """Of bytes that are complete. From any thread."""
        ...

    def queued(self) -> Callable[[], None]:
        """A call that returns when all that this thread has queued until here is done. It may be
        made from another thread."""
        ...


class HostMemory:
    """What was computed is there."""

    def crc32(self, address: int, num_bytes: int) -> int:
        return crc32_of_memory(address, num_bytes)

    def queued(self) -> Callable[[], None]:
        return _at_once


class GpuMemory:
    """Of the one GPU that the process uses. Sums are made of copies, on a stream of their own: they
    do not wait for passes that are queued meanwhile."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's

    def crc32(self, address: int, num_bytes: int) -> int:
        with torch.cuda.stream(self._stream):
            bytes_N = torch.as_tensor(_Bytes(address, num_bytes), device="cuda")
            return zlib.crc32(bytes_N.cpu().numpy().tobytes())

    def queued(self) -> Callable[[], None]:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        event.record()
        done: Callable[[], None] = event.synchronize
        return done


def memory_on(device: torch.device) -> CacheMemory:
    return GpuMemory() if device.type == "cuda" else HostMemory()


class _Bytes:
    """Device memory at an address, as torch takes it over without a copy."""

    def __init__(self, address: int, num_bytes: int) -> None:
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": (num_bytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 2,
        }


def _at_once() -> None:
    pass
