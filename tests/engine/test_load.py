"""A worker without a configured cache size determines one, and reports sizes that are too large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from kv_transfer.ranks.starting import loading
from segue.api.errors import InvalidConfig
from segue.engine.config import EngineConfig
from segue.engine.host_memory import MachineMemory
from segue.process.cores import in_brief_thread
from segue.worker import load
from segue.worker.load import load_runner
from segue.worker.process.options import WorkerOptions


def test_a_worker_determines_its_own_cache_size(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MachineMemory(place="this host", total_bytes=2 << 30, free_bytes=(2 * 448 + 80) << 20)
    monkeypatch.setattr(load, "read_host_memory", lambda: memory)

    loaded = load_runner("demo", EngineConfig(num_threads=1), max_drafts=7)

    assert isinstance(loaded.engine.cache_bytes, int)
    # Of the 80 MiB two workers would have an equal part each, beside their weights.
    assert 20 << 20 < loaded.engine.cache_bytes < 25 << 20
    assert loaded.engine.max_running == 16
    sizes, layout = loaded.sizes, loaded.runner.layout
    used = sizes.num_pages * layout.page_bytes + sizes.num_slots * layout.slot_bytes
    assert used <= loaded.engine.cache_bytes


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on two cores, whatever runs the tests."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("asked", "is_for_steps", "threads"), [(0, True, 1), (0, False, 2), (2, True, 2)]
)
async def test_steps_of_a_tiny_model_take_one_thread_unless_told(
    asked: int, is_for_steps: bool, threads: int
) -> None:
    options = WorkerOptions(worker_id="decode-0", model="demo", router_address="127.0.0.1:1")
    engine = EngineConfig(num_threads=asked, cache_bytes=32 << 20)

    async with loading(options, engine, is_for_steps=is_for_steps) as loaded:
        # Torch keeps a thread's own number, so this asks a new one, as the engine's is.
        assert loaded.engine.num_threads == await in_brief_thread(torch.get_num_threads) == threads


def test_a_worker_without_room_for_the_weights_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MachineMemory(place="this container", total_bytes=1 << 30, free_bytes=400 << 20)
    monkeypatch.setattr(load, "read_host_memory", lambda: memory)

    with pytest.raises(InvalidConfig, match=r"× 1 worker, this container has 1.0 GiB .400 MiB fr"):
        load_runner("demo", EngineConfig(num_threads=1))


def test_without_memory_information_a_number_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "read_host_memory", lambda: None)

    with pytest.raises(InvalidConfig, match="set a number of bytes"):
        load_runner("demo", EngineConfig(num_threads=1))


def test_a_failed_allocation_names_the_setting() -> None:
    # Pages for this number of sequences: 128 TiB.
    engine = EngineConfig(num_threads=1, cache_bytes=1 << 47, max_running=1 << 22)

    with pytest.raises(InvalidConfig, match=r"memory of cpu is too small.*cache_bytes = 14073"):
        load_runner("demo", replace(engine, max_checkpoints=0))
