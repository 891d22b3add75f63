from __future__ import annotations

import pytest
import torch

from segue.kernels.rms_norm import reference, triton, triton_gated
from tests.kernels.closeness import assert_close, randn
from tests.kernels.device import DEVICE, DTYPES

SHAPES = [(1, 1), (3, 64), (2, 5, 37), (2, 1025), (0, 8)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_equals_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = randn(*shape, dtype=dtype).to(DEVICE)
    weight = randn(shape[-1], seed=1, dtype=dtype).to(DEVICE)

    normed = triton.rms_norm(x, weight, eps=1e-6)

    assert normed.dtype is dtype
    if x.numel():
        assert_close(normed, reference.rms_norm(x, weight, eps=1e-6), dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_is_exact_and_its_norm_equals_the_reference(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x, y = (randn(*shape, seed=seed, dtype=dtype).to(DEVICE) for seed in (0, 1))
    weight = randn(shape[-1], seed=2).to(DEVICE)

    total, normed = triton.add_rms_norm(x, y, weight, eps=1e-6)

    assert total.dtype is normed.dtype is dtype
    assert torch.equal(total, x + y)
    if x.numel():
        assert_close(normed, reference.rms_norm(total, weight, eps=1e-6), dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_joined_norms_lie_side_by_side(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, y = (randn(*shape, seed=seed, dtype=dtype).to(DEVICE) for seed in (0, 1))
    x_weight, y_weight = (randn(shape[-1], seed=seed).to(DEVICE) for seed in (2, 3))

    joined = triton.join_rms_norms(x, y, x_weight, y_weight, eps=1e-6)

    assert joined.dtype is dtype
    assert joined.shape == (*shape[:-1], 2 * shape[-1])
    if x.numel():
        expected = reference.join_rms_norms(x, y, x_weight, y_weight, eps=1e-6)
        assert_close(joined, expected, dtype)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 37), (2, 16, 128), (1, 2, 1025), (0, 4, 8)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gated_norm_takes_its_gate_from_among_other_columns(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    num_tokens, num_heads, width = shape
    x, weight = randn(*shape).to(DEVICE), randn(width, seed=2).to(DEVICE)
    packed = randn(num_tokens, num_heads * width + 9, seed=1, dtype=dtype).to(DEVICE)
    gate = packed[:, 5:-4].view(shape)

    normed = triton_gated.gated_rms_norm(x, gate, weight, eps=1e-6)

    assert normed.dtype is dtype
    assert normed.is_contiguous()
    if x.numel():
        assert_close(normed, reference.gated_rms_norm(x, gate, weight, eps=1e-6), dtype)


def test_rows_that_do_not_lie_together_are_refused() -> None:
    x, weight = randn(4, 8).to(DEVICE)[:, ::2], randn(4).to(DEVICE)
    whole, heads = randn(4, 4).to(DEVICE), randn(4, 4, 4).to(DEVICE)
    gate = randn(4, 8, 4).to(DEVICE)[:, ::2]

    with pytest.raises(ValueError, match=r"contiguous rows .* got shape \(4, 4\)"):
        triton.rms_norm(x, weight, eps=1e-6)
    with pytest.raises(ValueError, match=r"add_rms_norm takes contiguous rows"):
        triton.add_rms_norm(whole, x, weight, eps=1e-6)
    with pytest.raises(ValueError, match=r"contiguous heads in each token"):
        triton_gated.gated_rms_norm(heads, gate, weight, eps=1e-6)


def test_tensors_that_do_not_fit_are_refused() -> None:
    x, weight = randn(4, 8).to(DEVICE), randn(8).to(DEVICE)

    with pytest.raises(ValueError, match=r"weight of shape \(8,\), .* got shape \(4,\)"):
        triton.rms_norm(x, weight[:4], eps=1e-6)
    with pytest.raises(ValueError, match=r"one shape and dtype, got \(4, 8\) .* and \(3, 8\)"):
        triton.add_rms_norm(x, x[:3], weight, eps=1e-6)
    with pytest.raises(ValueError, match=r"one shape and dtype, .* torch.float16"):
        triton.join_rms_norms(x, x.half(), weight, weight, eps=1e-6)
    with pytest.raises(ValueError, match=r"a gate of its shape, got \(4, 2, 8\)"):
        triton_gated.gated_rms_norm(x[:, None].expand(4, 2, 8).contiguous(), x, weight, eps=1e-6)
