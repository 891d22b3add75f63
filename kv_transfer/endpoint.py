"""One worker's end of the transport: an engine, and the cache memory that is registered with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from kv_transfer.cache_memory import CacheMemory, memory_on
from kv_transfer.config import TransferConfig
from kv_transfer.layout import MemoryMap, memory_map_of
from kv_transfer.mooncake import MooncakeTransport, require_cuda
from kv_transfer.paced import PacedTransport
from kv_transfer.transport import Transport, register_all
from segue.cache.tensors import CacheTensors
from segue.types import Epoch, WorkerId


@dataclass(frozen=True, slots=True)
class Endpoint:
    transport: Transport
    memory_map: MemoryMap
    memory: CacheMemory


@contextlib.contextmanager
def open_endpoint(
    config: TransferConfig,
    tensors: CacheTensors,
    *,
    worker_id: WorkerId,
    epoch: Epoch,
    host: str,
) -> Iterator[Endpoint]:
    """Registers the cache, and nothing else, until the block ends.

    Raises InvalidConfig, and TransferFailed when Mooncake does not start.
    """
    if tensors.device.type == "cuda":
        require_cuda()
    transport: Transport = MooncakeTransport(config.mooncake(host=host))
    if config.max_gbit_per_s:
        transport = PacedTransport(transport, bytes_per_s=config.max_gbit_per_s * 1e9 / 8)
    with contextlib.closing(transport):
        memory_map = memory_map_of(
            tensors.fields(),
            worker_id=worker_id,
            epoch=epoch,
            segment=transport.segment,
            layout=tensors.layout,
        )
        register_all(transport, memory_map)
        yield Endpoint(transport, memory_map, memory_on(tensors.device))
