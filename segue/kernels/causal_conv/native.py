"""The convolution on a CPU: one pass over the tokens, a few channels at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segue.kernels.native.library import UnsuitableInputs, are_plain, longs, operators

_prefill = operators("conv_prefill", "pppppppp" + "lllll")
_decode = operators("conv_decode", "ppppppp" + "lllll")
_MAX_WIDTH = 8


def causal_conv_prefill(
    x_TC: Tensor,
    weight_CW: Tensor,
    state_SCW: Tensor,
    *,
    cu_tokens_M1: Tensor,
    slots_out_M: Tensor,
    cu_segments_N1: Tensor,
    slots_in_N: Tensor,
) -> Tensor:
    where = (cu_tokens_M1, slots_out_M, cu_segments_N1, slots_in_N)
    if not _fits(x_TC, weight_CW, state_SCW, where):
        raise UnsuitableInputs
    out_TC = torch.empty(x_TC.shape, dtype=x_TC.dtype)
    _prefill(x_TC.dtype)(
        x_TC.data_ptr(),
        weight_CW.data_ptr(),
        state_SCW.data_ptr(),
        out_TC.data_ptr(),
        *(indexes.data_ptr() for indexes in where),
        len(slots_in_N),
        *weight_CW.shape,
        x_TC.stride(0),
        len(state_SCW),
    )
    return out_TC


def causal_conv_decode(
    x_TC: Tensor,
    weight_CW: Tensor,
    state_SCW: Tensor,
    *,
    slots_in_D: Tensor,
    slots_out_T: Tensor,
    round_sizes: Sequence[int],
) -> Tensor:
    if not _fits(x_TC, weight_CW, state_SCW, (slots_in_D, slots_out_T)):
        raise UnsuitableInputs
    out_TC = torch.empty(x_TC.shape, dtype=x_TC.dtype)
    _decode(x_TC.dtype)(
        x_TC.data_ptr(),
        weight_CW.data_ptr(),
        state_SCW.data_ptr(),
        out_TC.data_ptr(),
        slots_in_D.data_ptr(),
        slots_out_T.data_ptr(),
        longs(tuple(round_sizes)),
        len(round_sizes),
        *weight_CW.shape,
        x_TC.stride(0),
        len(state_SCW),
    )
    return out_TC


def _fits(x_TC: Tensor, weight_CW: Tensor, state_SCW: Tensor, indexes: tuple[Tensor, ...]) -> bool:
    return (
        x_TC.stride(1) == 1
        and weight_CW.shape[1] <= _MAX_WIDTH
        and are_plain(torch.float32, weight_CW)
        and are_plain(x_TC.dtype, state_SCW)
        and are_plain(torch.int64, *indexes)
    )
