"""A Gated Delta Net's decode step on a CPU, in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segue.kernels.gated_delta_step.reference import StepWeights
from segue.kernels.native.library import UnsuitableInputs, are_plain, longs, operators

_step = operators("delta_step", "p" * 14 + "l" * 10 + "f")
_LANES = 16
"""Of the widest vectors; others divide it."""
_MAX_WIDTH = 8


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
    """As the reference's, with the same bits."""
    slots = (slots_in_D, slots_out_T)
    inputs = (qkv_TC, gate_THV, rate_TH, dt_TH)
    if not _fit(inputs, weights, recurrent_SHKV, conv_SCW, slots):
        raise UnsuitableInputs
    num_slots, num_heads, k_dim, v_dim = recurrent_SHKV.shape
    out_THV = torch.empty(gate_THV.shape, dtype=gate_THV.dtype)
    _step(qkv_TC.dtype)(
        *(x.data_ptr() for x in inputs),
        weights.conv_CW.data_ptr(),
        weights.minus_a_H.data_ptr(),
        weights.dt_bias_H.data_ptr(),
        weights.norm_V.data_ptr(),
        recurrent_SHKV.data_ptr(),
        conv_SCW.data_ptr(),
        out_THV.data_ptr(),
        slots_in_D.data_ptr(),
        slots_out_T.data_ptr(),
        longs(tuple(round_sizes)),
        len(round_sizes),
        (qkv_TC.shape[1] - num_heads * v_dim) // (2 * k_dim),
        num_slots,
        num_heads,
        k_dim,
        v_dim,
        weights.conv_CW.shape[1],
        qkv_TC.stride(0),
        gate_THV.stride(0),
        dt_TH.stride(0),
        weights.eps,
    )
    return out_THV


def _fit(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    weights: StepWeights,
    recurrent_SHKV: Tensor,
    conv_SCW: Tensor,
    slots: tuple[Tensor, Tensor],
) -> bool:
    """Inputs may be columns of one tensor."""
    qkv_TC, gate_THV, rate_TH, dt_TH = inputs
    k_dim, v_dim = recurrent_SHKV.shape[2:]
    return (
        k_dim % _LANES == 0
        and v_dim % _LANES == 0
        and weights.conv_CW.shape[1] <= _MAX_WIDTH
        and qkv_TC.stride(1) == dt_TH.stride(1) == 1
        and rate_TH.stride() == dt_TH.stride()
        and gate_THV.stride()[1:] == (v_dim, 1)
        and all(x.dtype is qkv_TC.dtype for x in inputs)
        and are_plain(
            torch.float32,
            weights.conv_CW,
            weights.minus_a_H,
            weights.dt_bias_H,
            weights.norm_V,
            recurrent_SHKV,
        )
        and are_plain(qkv_TC.dtype, conv_SCW)
        and are_plain(torch.int64, *slots)
    )
