"""The memory that workers take, and the errors if there is too little."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.api.errors import InvalidConfig
from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.engine.budget import (
    CLUSTER_BYTES,
    PROCESS_BYTES,
    MemoryForWorkers,
    WorkerNeed,
    check_host,
    planned,
    planned_alone,
    size,
)
from segue.engine.config import MAX_AUTO_HOST_BYTES, EngineConfig, pool_sizes
from segue.engine.host_memory import MachineMemory

MIB, GIB = 1 << 20, 1 << 30
CONTEXT = 262_144


def layout(*, slot_bytes: int, page_bytes: int) -> CacheLayout:
    fields = ((Unit.SLOT, "recurrent", slot_bytes), (Unit.PAGE, "kv", page_bytes))
    return CacheLayout(
        model_id="any",
        page_tokens=16,
        fields=tuple(
            CacheField(group=group, layer=0, unit=unit, dtype="float32", shape=(num_bytes // 4,))
            for unit, group, num_bytes in fields
        ),
    )


# As Qwen3.5-0.8B and -397B-A17B in bfloat16.
SMALL = WorkerNeed(
    weight_bytes=1536 * MIB,
    layout=layout(slot_bytes=19 * MIB, page_bytes=192 << 10),
    max_context=CONTEXT,
    max_drafts=7,
)
LARGE = WorkerNeed(
    weight_bytes=738 * GIB,
    layout=layout(slot_bytes=183 * MIB, page_bytes=512 << 10),
    max_context=CONTEXT,
    max_drafts=7,
)
# As the demo.
TINY = WorkerNeed(
    weight_bytes=15 * MIB,
    layout=layout(slot_bytes=211 << 10, page_bytes=32 << 10),
    max_context=8192,
    max_drafts=7,
)


def host(free: float, total: float | None = None, num_workers: int = 2) -> MemoryForWorkers:
    memory = MachineMemory(
        place="this host", total_bytes=int((total or free) * GIB), free_bytes=int(free * GIB)
    )
    return MemoryForWorkers.on_host(memory, num_workers)


def slots_of(need: WorkerNeed, engine: EngineConfig) -> int:
    sizes = pool_sizes(
        need.layout, engine, max_context=need.max_context, max_drafts=need.max_drafts
    )
    return sizes.num_slots


def test_weights_that_do_not_fit_are_refused_with_the_numbers() -> None:
    with pytest.raises(InvalidConfig) as refused:
        planned(LARGE, EngineConfig(), host(22, total=23.5))

    message = str(refused.value)
    assert message.startswith("weights 738 GiB × 2 workers, this host has 23 GiB (22 GiB free)")
    assert "a slot has 183 MiB" in message
    # Twice weights, process, a pass and a smallest cache, and Ray: 1,480.9 GiB.
    assert "use a machine with 1,481 GiB free" in message


def test_a_small_model_takes_only_the_memory_that_it_can_use() -> None:
    engine = planned(TINY, EngineConfig(), host(200))

    assert isinstance(engine.cache_bytes, int)
    assert 500 * MIB < engine.cache_bytes < 600 * MIB
    assert slots_of(TINY, engine) == 32 + 64 + 7 * 16


def test_on_a_host_the_cache_is_limited_regardless_of_free_memory() -> None:
    assert planned(SMALL, EngineConfig(), host(500)).cache_bytes == MAX_AUTO_HOST_BYTES


def test_two_workers_on_a_laptop_leave_room_for_each_other() -> None:
    room = host(8)
    engine = planned(SMALL, EngineConfig(), room)

    assert isinstance(engine.cache_bytes, int)
    taken = CLUSTER_BYTES + 2 * (
        PROCESS_BYTES + SMALL.activation_bytes + SMALL.weight_bytes + engine.cache_bytes
    )
    assert taken <= room.memory.free_bytes
    assert engine.cache_bytes > GIB
    assert slots_of(SMALL, engine) >= 32


@pytest.mark.parametrize("need", [SMALL, LARGE])
def test_with_enough_memory_every_turn_has_its_two_slots(need: WorkerNeed) -> None:
    engine = planned(need, EngineConfig(), host(1600))

    assert engine.max_running == 16
    assert slots_of(need, engine) >= 32


def test_with_large_slots_fewer_turns_run_and_pages_keep_their_half() -> None:
    free = 2 * 739.5 + 2 * 1.5 + 0.6
    engine = planned(LARGE, EngineConfig(), host(free))

    assert engine.max_running == 1
    assert isinstance(engine.cache_bytes, int)
    sizes = pool_sizes(LARGE.layout, engine, max_context=CONTEXT)
    assert sizes.num_slots * LARGE.layout.slot_bytes <= engine.cache_bytes // 2
    assert sizes.num_pages * LARGE.layout.page_bytes >= engine.cache_bytes // 3


def test_a_number_that_fits_is_not_changed() -> None:
    engine = EngineConfig(cache_bytes=GIB, max_running=3)

    assert planned(SMALL, engine, host(16)) == engine


def test_a_number_that_does_not_fit_is_refused_with_one_that_does() -> None:
    room = host(16)
    asked = EngineConfig(cache_bytes=40 * GIB)

    with pytest.raises(InvalidConfig, match=r"cache_bytes = 42949672960 \(40 GiB\)") as refused:
        planned(SMALL, asked, room)

    fitting = int(str(refused.value).split("cache_bytes = ")[2].split()[0])
    assert planned(SMALL, replace(asked, cache_bytes=fitting), room)
    with pytest.raises(InvalidConfig):
        planned(SMALL, replace(asked, cache_bytes=fitting + MIB), room)


def test_a_host_tier_is_subtracted_on_a_host() -> None:
    asked = EngineConfig(cache_bytes=GIB, host_cache_bytes=4 * GIB)

    assert planned(SMALL, replace(asked, host_cache_bytes=0), host(8))
    with pytest.raises(InvalidConfig, match="weights"):
        planned(SMALL, asked, host(8))


def test_a_gpu_is_used_up_to_the_configured_share() -> None:
    gpu = MachineMemory(place="the GPU", total_bytes=80 * GIB, free_bytes=79 * GIB)
    cuda = EngineConfig(device="cuda")

    alone = planned(SMALL, cuda, MemoryForWorkers.on_gpu(gpu, share=1.0)).cache_bytes
    half = planned(SMALL, cuda, MemoryForWorkers.on_gpu(gpu, share=0.5)).cache_bytes

    assert isinstance(alone, int)
    assert isinstance(half, int)
    assert 60 * GIB < alone < 70 * GIB
    assert 30 * GIB < half < 35 * GIB
    with pytest.raises(InvalidConfig, match="weights 738 GiB × 1 worker, the GPU has 80 GiB"):
        planned(LARGE, cuda, MemoryForWorkers.on_gpu(gpu, share=1.0))


def test_gpu_workers_need_host_memory_for_processes_and_the_host_tier() -> None:
    check_host(EngineConfig(host_cache_bytes=4 * GIB), host(16))

    with pytest.raises(InvalidConfig, match=r"host_cache_bytes = .* \(8.0 GiB\) × 2 workers"):
        check_host(EngineConfig(host_cache_bytes=8 * GIB), host(16))


def test_a_single_worker_leaves_room_for_another_if_two_fit() -> None:
    memory = MachineMemory(place="this host", total_bytes=6 * GIB, free_bytes=6 * GIB)
    only_one = replace(SMALL, weight_bytes=4 * GIB)

    alone = planned_alone(only_one, EngineConfig(), memory)
    beside = planned_alone(SMALL, EngineConfig(), memory)

    assert isinstance(alone.cache_bytes, int)
    assert isinstance(beside.cache_bytes, int)
    assert 4 * GIB + PROCESS_BYTES + alone.cache_bytes <= 6 * GIB
    assert 2 * (SMALL.weight_bytes + PROCESS_BYTES + beside.cache_bytes) <= 6 * GIB


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [
        (738 * GIB + GIB // 2, "738 GiB"),
        (1500 * GIB, "1,500 GiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (183 * MIB, "183 MiB"),
        (211 << 10, "211 KiB"),
    ],
)
def test_sizes_are_readable(num_bytes: int, words: str) -> None:
    assert size(num_bytes) == words
