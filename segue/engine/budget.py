"""The memory that workers may use on a machine. Pure; runs before anything is loaded.

    free memory
    ├── Ray and the router, on the host
    └── for each worker: its process, its weights, and an equal share of the rest ── cache_bytes

With `cache_bytes = "auto"` the cache gets that share, or less if it cannot use all of it. A number
is checked against the share. If it does not fit, the error names a setting that would.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from segue.api.errors import InvalidConfig
from segue.cache.layout import CacheLayout
from segue.engine.config import EngineConfig, auto_cache_bytes
from segue.engine.host_memory import MachineMemory

CLUSTER_BYTES = 600 << 20
"""Ray's own processes, its object store and the router: measured at 420 MiB."""
PROCESS_BYTES = 448 << 20
"""A worker without weights, cache and activations (torch, Ray, gRPC, Mooncake): measured at
380 MiB."""
DEVICE_BYTES = 2 << 30
"""The same overhead in GPU memory: a CUDA context, some hundred graphs of a few MB, and attention's
partial results, 1 GiB for 64 sequences with 3 drafts in a context of 262,144."""
_MAX_ACTIVATION_BYTES = 1 << 30
_RESERVE = 0.1
"""With "auto": share of the memory for caches that stays free, for everything not counted above."""
_MIN_TOKENS = 1024
"""A cache for fewer tokens is useless, even for a single turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerNeed:
    """A worker's memory that does not depend on settings."""

    weight_bytes: int
    layout: CacheLayout
    max_context: int
    max_drafts: int

    @property
    def activation_bytes(self) -> int:
        """For one pass: a rough fraction of the weights, since both grow with the model's width."""
        return min(self.weight_bytes // 20, _MAX_ACTIVATION_BYTES)

    @property
    def min_cache_bytes(self) -> int:
        """Enough for one turn at a time."""
        num_pages = self.layout.num_pages_for(min(self.max_context, _MIN_TOKENS))
        return 2 * 2 * self.layout.slot_bytes + num_pages * self.layout.page_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryForWorkers:
    """Memory shared by a number of workers."""

    memory: MachineMemory
    num_workers: int
    process_bytes: int = PROCESS_BYTES
    """Per worker."""
    common_bytes: int = 0
    """Used by processes other than the workers."""
    unit: str = "worker"
    """Or "rank", if workers have several ranks. Each then counts as a worker."""

    @classmethod
    def on_host(
        cls, memory: MachineMemory, num_workers: int, unit: str = "worker"
    ) -> MemoryForWorkers:
        """The host also runs Ray and the router."""
        return cls(memory=memory, num_workers=num_workers, common_bytes=CLUSTER_BYTES, unit=unit)

    @property
    def workers(self) -> str:
        """For messages: "2 workers"."""
        return f"{self.num_workers} {self.unit}{'s' if self.num_workers > 1 else ''}"

    @classmethod
    def on_gpu(cls, memory: MachineMemory, *, share: float) -> MemoryForWorkers:
        """One worker's share of a GPU's memory."""
        own = replace(memory, free_bytes=min(memory.free_bytes, int(memory.total_bytes * share)))
        return cls(memory=own, num_workers=1, process_bytes=DEVICE_BYTES)

    def left_bytes(self, need: WorkerNeed, engine: EngineConfig) -> int:
        """Bytes left for the caches of all workers; zero or less if the weights do not fit."""
        beside = self.process_bytes + need.weight_bytes + need.activation_bytes
        if engine.device == "cpu":
            beside += engine.host_cache_bytes
        return self.memory.free_bytes - self.common_bytes - self.num_workers * beside


def planned(need: WorkerNeed, engine: EngineConfig, room: MemoryForWorkers) -> EngineConfig:
    """`engine` with a number for `cache_bytes`. With "auto", `max_running` is lowered if its slots
    do not fit. Raises InvalidConfig, with numbers.
    """
    left = room.left_bytes(need, engine)
    if left < room.num_workers * need.min_cache_bytes:
        raise InvalidConfig(_no_room(need, engine, room, left))
    if isinstance(engine.cache_bytes, int):
        if room.num_workers * engine.cache_bytes > left:
            raise InvalidConfig(_cache_too_large(need, engine, room, left))
        return engine
    share = int(left * (1 - _RESERVE)) // room.num_workers
    cache_bytes, max_running = auto_cache_bytes(
        need.layout,
        engine,
        max_context=need.max_context,
        max_drafts=need.max_drafts,
        share_bytes=max(share, need.min_cache_bytes),
    )
    return replace(engine, cache_bytes=cache_bytes, max_running=max_running)


def planned_alone(need: WorkerNeed, engine: EngineConfig, memory: MachineMemory) -> EngineConfig:
    """For a worker on a host with an unknown number of others. Leaves room for a second worker of
    the same kind, if two fit.
    """
    pair = MemoryForWorkers(memory=memory, num_workers=2)
    fits = pair.left_bytes(need, engine) >= 2 * need.min_cache_bytes
    return planned(need, engine, pair if fits else MemoryForWorkers(memory=memory, num_workers=1))


def check_host(engine: EngineConfig, room: MemoryForWorkers) -> None:
    """Checks host memory for GPU workers: their processes and host tiers must fit.

    Raises InvalidConfig.
    """
    needed = room.common_bytes + room.num_workers * (room.process_bytes + engine.host_cache_bytes)
    if needed > room.memory.free_bytes:
        raise InvalidConfig(
            f"[engine] host_cache_bytes = {engine.host_cache_bytes} "
            f"({size(engine.host_cache_bytes)}) × {room.num_workers} {room.unit}s takes "
            f"{size(needed)} with their processes; {room.memory.place} has "
            f"{size(room.memory.total_bytes)} ({size(room.memory.free_bytes)} free): lower it"
        )


def _no_room(need: WorkerNeed, engine: EngineConfig, room: MemoryForWorkers, left: int) -> str:
    wanted = room.memory.free_bytes - left + room.num_workers * need.min_cache_bytes
    enough = size(wanted + (1 << 30) - 1)
    ways = ["serve a smaller checkpoint or a quantised one", f"use a machine with {enough} free"]
    if engine.dtype == "float32":
        ways.insert(0, 'set [engine] dtype = "bfloat16"')
    if room.num_workers > 2 and engine.device == "cpu":
        ways.insert(0, "start fewer workers")
    slots = f"a slot has {size(need.layout.slot_bytes)}"
    return (
        f"weights {size(need.weight_bytes)} × {room.workers}, {room.memory.place} has "
        f"{size(room.memory.total_bytes)} ({size(room.memory.free_bytes)} free); with a cache for "
        f"one turn ({slots}) and the processes it takes {enough}: {', or '.join(ways)}"
    )


def _cache_too_large(
    need: WorkerNeed, engine: EngineConfig, room: MemoryForWorkers, left: int
) -> str:
    assert isinstance(engine.cache_bytes, int)
    fitting = left // room.num_workers >> 20 << 20
    return (
        f"[engine] cache_bytes = {engine.cache_bytes} ({size(engine.cache_bytes)}) and weights "
        f"{size(need.weight_bytes)}, × {room.workers}, and {room.memory.place} has "
        f"{size(room.memory.total_bytes)} ({size(room.memory.free_bytes)} free): cache_bytes = "
        f'{fitting} would fit, and "auto" finds a number by itself'
    )


def size(num_bytes: int) -> str:
    """Human-readable: "738 GiB", "1.4 GiB", "183 MiB", "211 KiB"."""
    if num_bytes >= 10 << 30:
        # Rounds down, so it never claims more than there is.
        return f"{num_bytes >> 30:,} GiB"
    if num_bytes >= 1 << 30:
        return f"{num_bytes / 2**30:.1f} GiB"
    if num_bytes >= 10 << 20:
        return f"{num_bytes / 2**20:.0f} MiB"
    return f"{num_bytes / 2**10:.0f} KiB"
