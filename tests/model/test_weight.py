from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segue.cache.tensors import CacheTensors
from segue.engine.batch import DecodeChunk, DraftStart, PrefillChunk
from segue.engine.runner import ModelRunner
from segue.kernels.mixed_experts import MixedWeights
from segue.kernels.product.native import FEW_ROWS
from segue.kernels.product.reference import Epilogue, finished
from segue.model import mlp
from segue.model import weight as weight_module
from segue.model.cache_layout import cache_layout
from segue.model.checkpoint.loading import load_weights
from segue.model.config import ModelConfig
from segue.model.weight import Experts, PlainWeight, mixed_of
from tests.kernels.closeness import assert_close, randn

LARGE, SMALL = (2056, 256), (64, 48)


@pytest.mark.parametrize("shape", [LARGE, SMALL])
@pytest.mark.parametrize("num_rows", [0, 1, 2, 5, FEW_ROWS, FEW_ROWS + 1, 70])
def test_it_is_the_product_for_any_number_of_rows(num_rows: int, shape: tuple[int, int]) -> None:
    weight, x = randn(*shape, seed=1), randn(num_rows, shape[1])

    with torch.inference_mode():
        out = PlainWeight(weight).matmul(x)

    assert out.dtype is torch.float32
    if num_rows:
        assert_close(out, x.double() @ weight.double().t())
    else:
        assert out.shape == (0, shape[0])


def test_rows_may_lie_apart_and_the_weight_may_be_part_of_another() -> None:
    whole, wide = randn(2200, 256, seed=1), randn(5, 512)
    weight, x = whole[-LARGE[0] :], wide[:, ::2]

    assert_close(PlainWeight(weight).matmul(x), x.double() @ weight.double().t())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 5, 40])
def test_keys_and_values_are_rows_of_the_served_projection(
    num_rows: int, dtype: torch.dtype
) -> None:
    # Qwen3.5-0.8B: 8 heads with gates, then keys and values of 2, of 256 each.
    whole, x = PlainWeight(randn(5120, 1024, dtype=dtype)), randn(num_rows, 1024, dtype=dtype)

    out = whole.rows(4096, 5120).matmul(x)

    assert_close(out, whole.matmul(x)[:, 4096:], dtype)


def test_a_row_is_the_same_beside_any_others() -> None:
    plain, x = PlainWeight(randn(*LARGE, seed=1)), randn(16, LARGE[1])
    whole = plain.matmul(x)

    for num_rows in range(1, 16):
        assert_close(plain.matmul(x[:num_rows]), whole[:num_rows])


class HalvedWeight(PlainWeight):
    """Another form: twice the numbers, in separate memory, and half the product."""

    def __init__(self, weight_NK: Tensor) -> None:
        super().__init__(2 * weight_NK)

    def rows(self, start: int, end: int) -> PlainWeight:
        return HalvedWeight(self._weight_NK[start:end] / 2)

    def matmul(self, x_TK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
        return finished(super().matmul(x_TK) / 2, epilogue)


class CopiedExperts(Experts):
    def __init__(self, gate_up: Sequence[Tensor], down: Sequence[Tensor], first: int) -> None:
        copies = ([part.clone() for part in stack] for stack in (gate_up, down))
        super().__init__(*copies, first_expert=first)


def copied_mixed(*args: Any, **kwargs: Any) -> MixedWeights | None:
    mixed = mixed_of(*args, **kwargs)
    if mixed is None:
        return None
    return replace(
        mixed,
        gate_up=[part.clone() for part in mixed.gate_up],
        down=[part.clone() for part in mixed.down],
        shared_gate_up=[part.clone() for part in mixed.shared_gate_up],
        shared_down=[part.clone() for part in mixed.shared_down],
        shared_gate_1H=mixed.shared_gate_1H.clone(),
    )


def runner_of(folder: Path) -> tuple[ModelRunner, dict[str, Tensor]]:
    """With its loaded tensors."""
    config = ModelConfig.from_folder(folder)
    tensors = load_weights(folder, config, dtype=torch.float32, device="cpu")
    layout = cache_layout(config, model_id="m", page_tokens=16, kv_dtype="float32", with_mtp=True)
    cache = CacheTensors.allocate(layout, num_pages=4, num_slots=4, device="cpu")
    return ModelRunner(config, tensors, layout, cache, "cpu"), tensors


def passes(runner: ModelRunner) -> Tensor:
    """Logits of prefill, verify and a draft."""
    pages = [2, 0]
    prompt = PrefillChunk(token_ids=range(1, 21), start=0, page_ids=pages, slot_in=None, slot_out=1)
    verified = DecodeChunk(
        token_ids=[30, 31], start=20, page_ids=pages, slot_in=1, slots_out=[2, 3]
    )
    drafter_start = DraftStart(position=22, page_ids=pages, slot=3)
    logits = [runner.forward([prompt]), runner.forward([verified])]
    return torch.cat([*logits, runner.drafter([drafter_start]).step([40])])


@pytest.mark.parametrize("folder", ["mtp_dense", "mtp_moe"])
def test_every_product_of_a_model_is_its_weights(
    folder: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = request.getfixturevalue(folder)
    expected = passes(runner_of(path)[0])
    monkeypatch.setattr(weight_module, "PlainWeight", HalvedWeight)
    monkeypatch.setattr(weight_module, "Experts", CopiedExperts)
    monkeypatch.setattr(mlp, "mixed_of", copied_mixed)
    runner, tensors = runner_of(path)
    # A product that bypassed its weight would read these.
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and name != "embed" and not name.endswith(".conv"):
            assert tensor is not tensors["embed"], "a tied head would take the embedding along"
            tensor.fill_(torch.nan)

    assert_close(passes(runner), expected)
