"""The interface of a transport, and one worker's endpoint.

Real workers use `mooncake`; tests use `loopback`, within one process. A worker's `__main__.py`
chooses the transport; everything below gets it as an argument.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from kv_transfer.config import TransferConfig
from kv_transfer.layout import Array, MemoryMap, RankMemory
from kv_transfer.peers.calls import PeerCalls, Peers
from kv_transfer.transport.cache_memory import CacheMemory, memory_on
from kv_transfer.writing.plan import Fragment
from segue.api.types import Epoch, WorkerId
from segue.cache.layout import CacheField, CacheLayout
from segue.cache.tensors import CacheTensors
from segue.parallel.followers import Followers
from segue.process.telemetry import Clock
from segue.security.config import OPEN, Security


class Transport(Protocol):
    @property
    def segment(self) -> str:
        """The name by which others write to this process. It never changes."""
        ...

    def register(self, address: int, num_bytes: int) -> None:
        """Lets our writes read this memory, and others' writes change it, until `close`."""
        ...

    def write(self, target_segment: str, fragments: Sequence[Fragment]) -> None:
        """Blocks until every byte is in the target's memory; other threads keep running.

        Raises TransferFailed, naming the peer and the bytes. Some fragments may have arrived then,
        but this process has closed the connection and will send no more of them.
        One thread at a time may write.
        """
        ...

    def disconnect(self, target_segment: str) -> None:
        """Closes the connections to a peer that is gone; a later write connects again.
        Called on the thread that writes, between two writes."""
        ...

    def close(self) -> None:
        """Nothing is sent or accepted afterwards."""
        ...


class OpenTransport(Protocol):
    def __call__(self, config: TransferConfig, *, host: str, device: str) -> Transport:
        """`host`: where others reach this process. `device`: where the cache is, "cpu" or "cuda".

        Raises InvalidConfig, and TransferFailed if the transport does not start.
        """
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One worker's end: a transport, the cache memory that is registered with it, and the calls to
    its peers."""

    transport: Transport
    memory_map: MemoryMap
    memory: CacheMemory
    peers: PeerCalls
    followers: Followers | None = None
    """The worker's other ranks, if there are any."""


@contextlib.contextmanager
def open_endpoint(
    transport: Transport,
    tensors: CacheTensors,
    *,
    worker_id: WorkerId,
    epoch: Epoch,
    security: Security = OPEN,
    layout: CacheLayout | None = None,
    followers: Followers | None = None,
    memories: Sequence[RankMemory] = (),
) -> Iterator[Endpoint]:
    """Registers the cache; closes the transport when the block ends. `security` is for the calls to
    peers: what the transport writes is neither encrypted nor authenticated. If the worker has
    several ranks: `layout` is that of whole units, and `memories` are those of the `followers`.
    """
    with contextlib.closing(transport):
        memory_map = registered(
            transport,
            tensors.fields(),
            worker_id=worker_id,
            epoch=epoch,
            layout=layout or tensors.layout,
            followers=tuple(memories),
        )
        peers = Peers(memory_map, security)
        yield Endpoint(transport, memory_map, memory_on(tensors.device), peers, followers)


def registered(
    transport: Transport,
    fields: Iterable[tuple[CacheField, Array]],
    *,
    worker_id: WorkerId,
    epoch: Epoch,
    layout: CacheLayout,
    followers: tuple[RankMemory, ...] = (),
) -> MemoryMap:
    """Registers these arrays [num_units, *shape], in layout order. Nothing else is registered: any
    process may write into registered memory. With followers the arrays are rank 0's, and `layout`
    is that of whole units.

    The map holds addresses, not the arrays: the caller must keep them alive.
    """
    arrays = list(fields)
    own = register_fields(transport, arrays)
    return MemoryMap(
        worker_id=worker_id,
        epoch=epoch,
        segment=own.segment,
        layout=layout,
        base_addresses=own.base_addresses,
        num_units=tuple(array.shape[0] for _, array in arrays),
        followers=followers,
    )


def register_fields(transport: Transport, fields: Iterable[tuple[CacheField, Array]]) -> RankMemory:
    addresses = []
    for field, array in fields:
        addresses.append(array.data_ptr())
        transport.register(addresses[-1], array.shape[0] * field.unit_bytes)
    return RankMemory(segment=transport.segment, base_addresses=tuple(addresses))


def paced(transport: Transport, max_gbit_per_s: float) -> Transport:
    """0 sets no limit: returns the transport itself."""
    if not max_gbit_per_s:
        return transport
    return PacedTransport(transport, bytes_per_s=max_gbit_per_s * 1e9 / 8)


class PacedTransport:
    """Limits the send rate, so that a shared link stays usable for others and a fast machine can
    emulate a slower link. It paces whole writes: after each, it sleeps until its time is over.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        bytes_per_s: float,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._write = transport.write
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self.segment = transport.segment
        self.register = transport.register
        self.disconnect = transport.disconnect
        self.close = transport.close

    def write(self, target_segment: str, fragments: Sequence[Fragment]) -> None:
        ends_at = self._clock() + sum(f.num_bytes for f in fragments) / self._bytes_per_s
        self._write(target_segment, fragments)
        left_s = ends_at - self._clock()
        if left_s > 0:
            self._sleep(left_s)
