"""Gates in plain PyTorch.

T tokens, I width of an MLP, J = 2 I, Q query heads of X dimensions, N value heads of the gated
delta rule.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def silu_gate(gate_up_TJ: Tensor) -> Tensor:
    """silu(gate) · up [T, I] of a projection [T, 2 I] with all gates, then all ups."""
    gate_TI, up_TI = gate_up_TJ.chunk(2, dim=1)
    return F.silu(gate_TI).mul_(up_TI)


def sigmoid_gate(x_TQX: Tensor, gate_TQX: Tensor) -> Tensor:
    """x · sigmoid(gate) [T, Q, X], contiguous, of two tensors of the same dtype.

    `gate` may be a view of a wider projection, as `attention_input` returns it: the elements of a
    head must be contiguous, heads and tokens need not.
    """
    return gate_TQX.sigmoid().mul_(x_TQX)


def decay_and_rate(
    dt_TN: Tensor, rate_TN: Tensor, minus_a_N: Tensor, dt_bias_N: Tensor
) -> tuple[Tensor, Tensor]:
    """minus_a · softplus(dt + dt_bias), the logarithm of a head's decay, and sigmoid(rate).

    Both results are [T, N] in float32. `dt` and `rate` are columns of a projection of any dtype,
    `minus_a` (-exp of the checkpoint's A_log) and `dt_bias` float32.
    """
    log_decay_TN = F.softplus(dt_TN.float() + dt_bias_N).mul_(minus_a_N)
    return log_decay_TN, rate_TN.float().sigmoid()
