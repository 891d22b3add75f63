"""The gates between two products of a layer, each in one pass over memory: the MLP's gate,
attention's output gate, and the decay and rate of the gated delta rule."""

from __future__ import annotations

from torch import Tensor

from segue.kernels import dispatch
from segue.kernels.gates import reference

__all__ = ["decay_and_rate", "sigmoid_gate", "silu_gate"]


def silu_gate(gate_up_TJ: Tensor) -> Tensor:
    """silu(gate) · up [T, I] of a projection [T, 2 I] with all gates, then all ups."""
    if dispatch.takes_kernels(gate_up_TJ):
        from segue.kernels.gates import triton

        return triton.silu_gate(gate_up_TJ)
    return reference.silu_gate(gate_up_TJ)


def sigmoid_gate(x_TQX: Tensor, gate_TQX: Tensor) -> Tensor:
    """x · sigmoid(gate) [T, Q, X], contiguous, of two tensors of the same dtype.

    `gate` may be a view of a wider projection, as `attention_input` returns it: the elements of a
    head must be contiguous, heads and tokens need not.
    """
    if dispatch.takes_kernels(x_TQX):
        from segue.kernels.gates import triton

        return triton.sigmoid_gate(x_TQX, gate_TQX)
    return reference.sigmoid_gate(x_TQX, gate_TQX)


def decay_and_rate(
    dt_TN: Tensor, rate_TN: Tensor, minus_a_N: Tensor, dt_bias_N: Tensor
) -> tuple[Tensor, Tensor]:
    """minus_a · softplus(dt + dt_bias), the logarithm of a head's decay, and sigmoid(rate).

    Both results are [T, N] in float32. `dt` and `rate` are columns of a projection of any dtype,
    `minus_a` (-exp of the checkpoint's A_log) and `dt_bias` float32.
    """
    if dispatch.takes_kernels(dt_TN):
        from segue.kernels.gates import triton

        return triton.decay_and_rate(dt_TN, rate_TN, minus_a_N, dt_bias_N)
    return reference.decay_and_rate(dt_TN, rate_TN, minus_a_N, dt_bias_N)
