"""A worker without a configured cache size determines one, and reports sizes that are too large."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.api.errors import InvalidConfig
from segue.engine.config import EngineConfig
from segue.engine.host_memory import MachineMemory
from segue.worker import load
from segue.worker.load import load_runner


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
