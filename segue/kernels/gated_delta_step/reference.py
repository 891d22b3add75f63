"""A Gated Delta Net's decode step as the four operators that it consists of.

T packed tokens, D sequences, S slots, G key heads, H value heads, K and V head dimensions,
C = 2 G K + H V channels of the convolution, W its width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.kernels.causal_conv import causal_conv_decode
from segue.kernels.gated_delta_rule import gated_delta_rule_decode
from segue.kernels.gates import decay_and_rate
from segue.kernels.rms_norm import gated_rms_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWeights:
    """A layer's weights apart from its projections. All but the convolution's are float32."""

    conv_CW: Tensor
    minus_a_H: Tensor
    """-exp of the checkpoint's A_log."""
    dt_bias_H: Tensor
    norm_V: Tensor
    eps: float
    """Of the norm."""


def gated_delta_step(
    qkv_TC: Tensor,
    gate_THV: Tensor,
    rate_TH: Tensor,
    dt_TH: Tensor,
    weights: StepWeights,
    recurrent_SHKV: Tensor,
    conv_SCW: Tensor,
    *,
    slots_in_D: Tensor,
    slots_out_T: Tensor,
    round_sizes: Sequence[int],
) -> Tensor:
    """The gated outputs [T, H, V] of a few tokens a sequence, in the dtype of `gate`; `recurrent`
    [S, H, K, V] and `conv` [S, C, W - 1] are updated in place.

    `qkv`, `gate`, `rate` and `dt` are columns of a projection: queries, keys and values before
    their convolution, and the three gates before their functions. Rows, rounds and slots are those
    of `gated_delta_rule_decode`; both states have the same slots.
    """
    num_heads, k_dim, v_dim = recurrent_SHKV.shape[1:]
    mixed_TC = causal_conv_decode(
        qkv_TC,
        weights.conv_CW,
        conv_SCW,
        slots_in_D=slots_in_D,
        slots_out_T=slots_out_T,
        round_sizes=round_sizes,
    )
    v_width = num_heads * v_dim
    q_width = (mixed_TC.shape[1] - v_width) // 2
    q_TY, k_TY, v_TY = torch.split(mixed_TC, [q_width, q_width, v_width], dim=1)
    log_decay_TH, rate_TH = decay_and_rate(dt_TH, rate_TH, weights.minus_a_H, weights.dt_bias_H)
    out_THV = gated_delta_rule_decode(
        q_TY.view(len(q_TY), -1, k_dim),
        k_TY.view(len(k_TY), -1, k_dim),
        v_TY.view(len(v_TY), num_heads, v_dim),
        log_decay_TH,
        rate_TH,
        recurrent_SHKV,
        slots_in_D=slots_in_D,
        slots_out_T=slots_out_T,
        round_sizes=round_sizes,
    )
    return gated_rms_norm(out_THV, gate_THV, weights.norm_V, eps=weights.eps)
