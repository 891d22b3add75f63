"""FlashInfer in the benchmark of kernels: checked like ours, and only where it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.gpu import flashinfer, plan
from benchmarks.gpu.cases.attention import flashinfer_cases
from benchmarks.gpu.cases.setup import DRY, Setup
from benchmarks.gpu.models import DRY_SHAPES
from benchmarks.gpu.operators import checked
from segue.kernels.paged_attention.flashinfer import prompts
from segue.kernels.paged_attention.flashinfer.suitable import Gpu
from tests.kernels.flashinfer_semantics import PACKAGE, Wrapper

SHAPE = DRY_SHAPES[1]


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(capability=(9, 0), num_multiprocessors=132)
    monkeypatch.setattr(prompts, "package", lambda: PACKAGE)
    monkeypatch.setattr(prompts, "why_not", lambda shape, gpu: None)
    monkeypatch.setattr(Gpu, "of", lambda device: gpu)


@pytest.mark.parametrize("keys_too_many", [0, 1])
def test_its_results_are_compared_with_float64(
    keys_too_many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Wrapper, "keys_too_many", keys_too_many)
    (make,) = flashinfer_cases(Setup(SHAPE, DRY, "cpu", torch.float32))
    case = make()

    error, is_repeatable = checked(case, repeats=2)

    assert case.operator == "attention, prefill by FlashInfer"
    assert (error <= case.limit) == (keys_too_many == 0)
    assert is_repeatable


def test_it_is_measured_only_if_it_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(plan.TRIAL, shapes=[SHAPE])
    assert not [item.name for item in plan.plan(settings) if "FlashInfer" in item.name]

    monkeypatch.setattr(plan, "is_usable", lambda *_: True)
    names = [item.name for item in plan.plan(settings)]
    without = [item.name for item in plan.plan(replace(settings, with_flashinfer=False))]

    assert [name for name in names if "FlashInfer" in name] == [
        "FlashInfer 1 of tiny MoE",
        "prompts by FlashInfer of tiny MoE",
    ]
    assert [name for name in names if "FlashInfer" not in name] == without


def test_it_needs_a_gpu_its_dtype_and_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    where = (replace(SHAPE, head_dim=256), 64, "cuda", torch.bfloat16)
    monkeypatch.setattr(flashinfer, "is_installed", lambda: True)
    assert flashinfer.is_usable(*where)
    assert not flashinfer.is_usable(where[0], 64, "cpu", torch.bfloat16)
    assert not flashinfer.is_usable(where[0], 64, "cuda", torch.float32)

    monkeypatch.setattr(flashinfer, "is_installed", lambda: False)
    assert not flashinfer.is_usable(*where)
