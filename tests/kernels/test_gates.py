"""The gates: the reference against the textbook, the kernel against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segue.kernels.gates import reference, triton
from tests.kernels.closeness import assert_close, randn
from tests.kernels.device import DEVICE, DTYPES

pytestmark = pytest.mark.usefixtures("cpu_operators")

HEADS = [(1, 1, 1), (3, 5, 20), (2, 5, 256), (0, 4, 8)]
"""Tokens, heads, dimensions of a head."""


def packed(num_tokens: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Among other columns: tokens do not lie together."""
    return randn(num_tokens, columns + 12, dtype=dtype).to(DEVICE)[:, 7:-5]


@pytest.mark.parametrize("num_tokens", [0, 1, 3])
@pytest.mark.parametrize("width", [1, 37, 1025])
@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_gates_the_other_half(num_tokens: int, width: int, dtype: torch.dtype) -> None:
    gate_up = packed(num_tokens, 2 * width, dtype)

    gated = triton.silu_gate(gate_up)

    gate, up = gate_up.double().chunk(2, dim=1)
    assert gated.dtype is dtype
    if num_tokens:
        assert_close(gated, reference.silu_gate(gate_up), dtype)
        assert_close(gated, gate * gate.sigmoid() * up, dtype)


@pytest.mark.parametrize("shape", HEADS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sigmoid_gates_each_head_by_its_neighbour(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    num_tokens, num_heads, head_dim = shape
    x = randn(*shape, seed=1, dtype=dtype).to(DEVICE)
    heads = packed(num_tokens, 2 * num_heads * head_dim, dtype)
    gate = heads.unflatten(1, (2 * num_heads, head_dim))[:, 1::2]

    gated = triton.sigmoid_gate(x, gate)

    assert gated.dtype is dtype
    assert gated.is_contiguous()
    if num_tokens:
        expected = reference.sigmoid_gate(x, gate)
        assert expected.is_contiguous()
        assert_close(gated, expected, dtype)
        assert_close(gated, x.double() * gate.double().sigmoid(), dtype)


@pytest.mark.parametrize("num_tokens", [0, 1, 65])
@pytest.mark.parametrize("num_heads", [1, 5, 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_decay_and_rate_are_in_float32(num_tokens: int, num_heads: int, dtype: torch.dtype) -> None:
    rate, dt = (packed(num_tokens, 2 * num_heads, dtype) * 8).chunk(2, dim=1)
    minus_a, dt_bias = (
        -randn(num_heads, seed=1).exp().to(DEVICE),
        randn(num_heads, seed=2).to(DEVICE),
    )

    log_decay, out_rate = triton.decay_and_rate(dt, rate, minus_a, dt_bias)

    assert log_decay.dtype is out_rate.dtype is torch.float32
    if num_tokens:
        expected_decay, expected_rate = reference.decay_and_rate(dt, rate, minus_a, dt_bias)
        assert_close(log_decay, expected_decay)
        assert_close(out_rate, expected_rate)


@pytest.mark.parametrize("operator", [reference, triton])
def test_a_decay_is_right_where_little_or_nothing_is_forgotten(operator: object) -> None:
    dt = torch.tensor([[-80.0, -30.0, -17.0, -5.0, 0.0, 5.0, 30.0, 80.0]], device=DEVICE)
    ones, zeros = torch.ones(8, device=DEVICE), torch.zeros(8, device=DEVICE)

    log_decay, _ = operator.decay_and_rate(dt, dt, -ones, zeros)

    expected = -torch.logaddexp(dt.double(), torch.zeros_like(dt).double())
    torch.testing.assert_close(log_decay.double(), expected, rtol=1e-6, atol=0)


def test_what_does_not_fit_is_refused() -> None:
    x = randn(3, 4, 8).to(DEVICE)

    with pytest.raises(ValueError, match=r"as many gates as ups, .* got shape \(3, 7\)"):
        triton.silu_gate(randn(3, 7).to(DEVICE))
    with pytest.raises(ValueError, match=r"got shape \(8, 4\), strides \(1, 8\)"):
        triton.silu_gate(randn(4, 8).to(DEVICE).t())
    with pytest.raises(ValueError, match=r"a gate of its shape .* and \(3, 2, 8\)"):
        triton.sigmoid_gate(x, x[:, ::2])
    with pytest.raises(ValueError, match=r"shape and dtype .* torch.float16 with strides"):
        triton.sigmoid_gate(x, x.half())
    with pytest.raises(ValueError, match=r"float32 vectors of 8 heads, got torch.float32 of .*4"):
        triton.decay_and_rate(x[:, 0], x[:, 0], x[0, 0], x[0, 0, :4])
