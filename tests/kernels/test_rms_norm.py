from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segue.kernels.rms_norm import add_rms_norm, gated_rms_norm, join_rms_norms, rms_norm
from tests.kernels.closeness import assert_close, randn

pytestmark = pytest.mark.usefixtures("cpu_operators")

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_of_a_sum_is_that_of_the_rounded_sum(dtype: torch.dtype) -> None:
    x, y, weight = randn(3, 64, dtype=dtype), randn(3, 64, seed=1, dtype=dtype), randn(64, seed=2)

    total, normed = add_rms_norm(x, y, weight, eps=1e-6)

    assert torch.equal(total, x + y)
    assert torch.equal(normed, rms_norm(x + y, weight, eps=1e-6))


def test_joined_norms_each_have_their_weight() -> None:
    x, y = randn(3, 64), randn(3, 64, seed=1)
    x_weight, y_weight = randn(64, seed=2), randn(64, seed=3)

    joined = join_rms_norms(x, y, x_weight, y_weight, eps=1e-6)

    assert torch.equal(joined[:, :64], rms_norm(x, x_weight, eps=1e-6))
    assert torch.equal(joined[:, 64:], rms_norm(y, y_weight, eps=1e-6))


def test_the_input_is_not_changed() -> None:
    x, gate = randn(3, 8), randn(3, 8, seed=1)
    x_before, gate_before = x.clone(), gate.clone()

    rms_norm(x, randn(8), eps=1e-6)
    add_rms_norm(x, gate, randn(8), eps=1e-6)
    gated_rms_norm(x, gate, randn(8), eps=1e-6)

    assert torch.equal(x, x_before)
    assert torch.equal(gate, gate_before)
