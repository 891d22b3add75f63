"""A model that does not fit a GPU is refused with the number of ranks that would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from segue.api.errors import InvalidConfig
from segue.engine.host_memory import MachineMemory
from segue.launch.model import locate
from tests.launch.test_model import (
    GIB,
    SIZES,
    FakeHub,
    config_of,
    install,
    machine,
    nowhere,
)
from tests.model.folders import HUGE_MOE, sparse_folder

SHARDS = {f"model-{n:05}-of-00125.safetensors": 8 * GIB for n in range(1, 126)}
"""As large as the folder's own."""


@pytest.mark.parametrize(
    ("free", "asked", "advice"),
    [
        (79, 1, r"\. \[engine\] tensor_parallel = 16 would fit, with 16 such GPUs"),
        (139, 2, r"\. \[engine\] tensor_parallel = 8 would fit"),
        # The model has 16 key heads, so no more ranks than that.
        (39, 1, r"or use a machine with 1,\d+ GiB free$"),
    ],
)
def test_a_number_of_ranks_that_fits_is_named(
    free: int, asked: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sparse_folder(tmp_path / "model", HUGE_MOE)
    gpu = MachineMemory(place="the GPU", total_bytes=free * GIB, free_bytes=free * GIB)
    has_gpu = replace(machine(100), gpu=gpu)
    install(FakeHub(folder, SIZES | SHARDS), monkeypatch)

    for model in (folder, "ours/model"):
        asked_for = config_of(model, device="cuda", tensor_parallel=asked)
        with pytest.raises(InvalidConfig, match=advice):
            locate(asked_for, nowhere, machine=has_gpu)


def test_on_a_host_more_ranks_would_not_help(tmp_path: Path) -> None:
    folder = sparse_folder(tmp_path / "model", HUGE_MOE)

    with pytest.raises(InvalidConfig, match="a smaller checkpoint or a quantised one") as refused:
        locate(config_of(folder), nowhere, machine=machine(22))

    assert "tensor_parallel" not in str(refused.value)
