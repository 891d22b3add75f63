from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segue.kernels.rms_norm import gated_rms_norm, rms_norm
from tests.kernels.closeness import assert_close, randn

SHAPES = [(1, 1), (3, 64), (2, 5, 37), (0, 8)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weight_is_an_offset_from_one(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = randn(*shape, dtype=dtype), randn(shape[-1], seed=1)

    normed = rms_norm(x, weight, eps=1e-6)

    scale = (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    assert normed.dtype is dtype
    if x.numel():
        assert_close(normed, x.double() * scale * (1 + weight.double()), dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gated_norm_has_a_plain_weight_and_a_silu_gate(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x, gate, weight = randn(*shape), randn(*shape, seed=1, dtype=dtype), randn(shape[-1], seed=2)

    normed = gated_rms_norm(x, gate, weight, eps=1e-6)

    scale = (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    assert normed.dtype is dtype
    if x.numel():
        assert_close(normed, x.double() * scale * weight.double() * F.silu(gate.double()), dtype)


def test_the_input_is_not_changed() -> None:
    x, gate = randn(3, 8), randn(3, 8, seed=1)
    x_before, gate_before = x.clone(), gate.clone()

    rms_norm(x, randn(8), eps=1e-6)
    gated_rms_norm(x, gate, randn(8), eps=1e-6)

    assert torch.equal(x, x_before)
    assert torch.equal(gate, gate_before)
