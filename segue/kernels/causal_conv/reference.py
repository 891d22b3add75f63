"""Depthwise causal convolution in plain PyTorch.

T packed tokens, N prompts, M segments, D steps, S slots, C channels, W kernel width.
A slot holds the W - 1 inputs before the next token, oldest first.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels import NO_SLOT


def causal_conv_prompts(
    x_TC: Tensor,
    weight_CW: Tensor,
    state_SCW: Tensor,
    *,
    cu_tokens_M1: Tensor,
    slots_out_M: Tensor,
    cu_segments_N1: Tensor,
    slots_in_N: Tensor,
) -> Tensor:
    """silu(conv(x)) [T, C] of packed prompts; `state` [S, C, W - 1] is changed in place.

    Segment m is rows cu_tokens[m] to cu_tokens[m + 1], and leaves its last inputs in slot
    `slots_out[m]`. Prompt n is segments cu_segments[n] to cu_segments[n + 1], of which each begins
    where the one before it ends, and continues from slot `slots_in[n]` (`NO_SLOT`: from zeros). No
    slot may be written twice, or read by one prompt and written by another.
    """
    out_TC = torch.empty_like(x_TC)
    bounds, slots_out = cu_tokens_M1.tolist(), slots_out_M.tolist()
    for slot_in, (first, end) in zip(
        slots_in_N.tolist(), pairwise(cu_segments_N1.tolist()), strict=True
    ):
        past_CW = state_SCW[slot_in] if slot_in != NO_SLOT else torch.zeros_like(state_SCW[0])
        for m in range(first, end):
            rows = slice(bounds[m], bounds[m + 1])
            inputs_TC = torch.cat([past_CW.t().to(x_TC.dtype), x_TC[rows]])
            out_TC[rows] = _convolve(inputs_TC, weight_CW)
            past_CW = inputs_TC[-past_CW.shape[1] :].t()
            state_SCW[slots_out[m]] = past_CW
    return out_TC


def causal_conv_steps(
    x_DC: Tensor,
    weight_CW: Tensor,
    state_SCW: Tensor,
    *,
    slots_in_D: Tensor,
    slots_out_D: Tensor,
) -> Tensor:
    """silu(conv(x)) [D, C] of one token a sequence; `state` [S, C, W - 1] is changed in place.

    `slots_in` are only read. No slot may be written twice, or read and written by two sequences.
    """
    past_DCW = state_SCW.index_select(0, slots_in_D)
    window_DCW = torch.cat([past_DCW, x_DC.unsqueeze(-1).to(state_SCW.dtype)], dim=-1)
    state_SCW.index_copy_(0, slots_out_D, window_DCW[..., 1:])
    out_DC = (window_DCW.float() * weight_CW.float()).sum(-1)
    return F.silu(out_DC).to(x_DC.dtype)


def _convolve(inputs_TC: Tensor, weight_CW: Tensor) -> Tensor:
    """One multiply-add of whole rows per tap: channels stay contiguous, nothing is transposed."""
    width = weight_CW.shape[1]
    num_tokens = inputs_TC.shape[0] - width + 1
    taps_WC = weight_CW.float().t().contiguous()
    inputs_TC = inputs_TC.float()
    out_TC = inputs_TC[:num_tokens] * taps_WC[0]
    for tap in range(1, width):
        out_TC.addcmul_(inputs_TC[tap : tap + num_tokens], taps_WC[tap])
    return F.silu(out_TC, inplace=True)
