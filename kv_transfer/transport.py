"""What moves bytes, seen from above. `mooncake` is the real one, `loopback` the one for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kv_transfer.layout import MemoryMap
from kv_transfer.plan import Fragment


class Transport(Protocol):
    @property
    def segment(self) -> str:
        """How others name this process when they write to it. Stays the same for its life."""
        ...

    def register(self, address: int, num_bytes: int) -> None:
        """Lets this memory be read by our writes and written by others' writes, until close()."""
        ...

    def write(self, target_segment: str, fragments: Sequence[Fragment]) -> None:
        """Blocks until every byte is in the target's memory; other threads run meanwhile.

        Raises TransferFailed, naming the peer and the bytes. Some fragments may have arrived then,
        but this process has closed the connection and will send no more of them.
        One thread at a time may write.
        """
        ...

    def close(self) -> None:
        """Nothing is sent or accepted afterwards."""
        ...


def register_all(transport: Transport, memory_map: MemoryMap) -> None:
    """Registers the cache and nothing else: whatever is registered, anybody may write."""
    for region in memory_map.regions():
        transport.register(region.base_address, region.num_bytes)
