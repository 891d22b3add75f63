"""A whole model with keys and values in FP8, against itself with pages of full length."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from segue.api.errors import InvalidCheckpoint
from segue.cache.host.unit_copy import copy_units
from segue.cache.layout import Unit
from segue.cache.tensors import CacheTensors
from segue.engine.config import EngineConfig
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel
from segue.kernels.e4m3 import E4M3
from segue.model.checkpoint.model_id import model_id
from tests.engine.sequence import RunningSequence
from tests.engine.test_runner_oracle import random_prompt

NUM_PAGES, NUM_SLOTS = 40, 8
MAX_ERROR = 0.02
"""Root mean square of the logits' differences, in units of the logits' standard deviation."""
AT = "model.layers.3.self_attn"


def runner_of(folder: Path, kv_dtype: str = "fp8", dtype: str = "float32") -> ModelRunner:
    served = ServedModel.of(folder, EngineConfig(dtype=dtype, kv_dtype=kv_dtype))
    return ModelRunner.load(served, num_pages=NUM_PAGES, num_slots=NUM_SLOTS)


def logits_of(runner: ModelRunner, prompt: list[int]) -> Tensor:
    return RunningSequence(runner, pages=range(20), slot=1).prefill_all(prompt)


def with_scales(folder: Path, copy: Path, scales: dict[str, float]) -> Path:
    shutil.copytree(folder, copy)
    tensors = load_file(folder / "model.safetensors")
    tensors |= {f"{AT}.{name}": torch.tensor(scale) for name, scale in scales.items()}
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).pow(2).mean().sqrt() / expected.std())


@pytest.mark.parametrize("source", ["mtp_dense", "mtp_moe"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_close_and_pages_have_half_the_bytes(
    source: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    folder, prompt = request.getfixturevalue(source), random_prompt(200)
    plain, small = runner_of(folder, "auto", dtype), runner_of(folder, "fp8", dtype)

    error = relative_error(logits_of(small, prompt), logits_of(plain, prompt))

    assert 0 < error < MAX_ERROR
    assert small.layout.page_bytes * (4 if dtype == "float32" else 2) == plain.layout.page_bytes
    assert small.layout.slot_bytes == plain.layout.slot_bytes
    assert small.operators().endswith(", FP8 pages")
    stored = {field.dtype for field in small.layout.of_unit(Unit.PAGE)}
    assert stored == {"float8_e4m3fn"}
