"""Kernels are compiled without being launched: later code must cope with zeros as results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from triton.runtime.interpreter import GridExecutor

from segue.engine.device.buckets import Buckets
from segue.engine.device.buffers import StepTables
from segue.engine.device.sampling import DeviceSampling
from segue.kernels import dispatch
from segue.kernels.compiling import zeroed_memory
from tests.checkpoints import Variant, add_mtp_layer
from tests.conftest import MakeCheckpoint
from tests.runners import new_runner

Skipped = Callable[[], int]


@pytest.fixture
def skipped(monkeypatch: pytest.MonkeyPatch) -> Skipped:
    """No kernel runs, as while they are compiled. Returns how many were not run."""
    names: list[str] = []
    monkeypatch.setattr(dispatch, "takes_kernels", lambda _: True)
    monkeypatch.setattr(
        GridExecutor, "__call__", lambda self, *_, **__: names.append(self.fn.__name__)
    )
    return lambda: len(names)


@pytest.fixture(params=["dense", "moe"])
def folder(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    changes = {"linear_value_head_dim": 32}  # Kernels take powers of two.
    plain = make_checkpoint(Variant(is_moe=request.param == "moe", changes=changes))
    return add_mtp_layer(plain, tmp_path / "mtp")


@pytest.mark.parametrize("make", [torch.empty, torch.ones(1).new_empty])
def test_memory_is_zero(make: Callable[..., torch.Tensor]) -> None:
    with zeroed_memory():
        memory = [make(1000), torch.empty_like(torch.ones(3, 4)), torch.empty_strided((2,), (1,))]

    assert not any(tensor.any() for tensor in memory)


def test_every_step_gets_past_kernels_that_do_not_run(folder: Path, skipped: Skipped) -> None:
    runner = new_runner(folder, num_pages=4, num_slots=4, with_scratch=True)
    assert runner.scratch is not None
    tables = StepTables(
        num_rows=3,
        max_slots=4,
        max_context=64,
        page_tokens=16,
        scratch=runner.scratch,
        device="cpu",
    )
    sampling = DeviceSampling(
        num_rows=3, vocab_size=runner.config.vocab_size, device="cpu", max_drafts=2
    )
    step = runner.device_step(tables, sampling)
    shapes = list(Buckets(max_batch=3, max_drafts=2, num_pages=tables.max_pages).shapes())

    with zeroed_memory():
        for shape in shapes:
            step.run(torch.full((shape.num_sequences,), tables.pad_row), shape)

    assert skipped() > 10 * len(shapes)


def test_first_passes_get_past_kernels_that_do_not_run(folder: Path, skipped: Skipped) -> None:
    runner = new_runner(folder, num_pages=8, num_slots=2)

    with zeroed_memory():
        for num_tokens in (64, 500):  # The second does not fit the pages.
            runner._run_prompt_and_step(range(5), 0, num_tokens)

    assert skipped() > 40
