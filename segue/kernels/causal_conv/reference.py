"""Depthwise causal convolution in plain PyTorch.

T packed tokens, N sequences of a prefill, M prefill segments, D sequences of a decode, S slots, C
channels, W kernel width.
A slot holds the W - 1 inputs before the next token, oldest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels import NO_SLOT


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
    """silu(conv(x)) [T, C] of packed sequences; `state` [S, C, W - 1] is updated in place.

    Segment m is rows cu_tokens[m] to cu_tokens[m + 1], and leaves its last inputs in slot
    `slots_out[m]`. Sequence n is segments cu_segments[n] to cu_segments[n + 1]. Each segment starts
    where the previous one ends; the first continues from slot `slots_in[n]` (`NO_SLOT`: zeros). No
    slot may be written twice, or read by one sequence and written by another.

    `x`, `state` and the result have the same dtype; `weight` may have any, and a model's is
    float32. Sums are in float32.
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


def causal_conv_decode(
    x_TC: Tensor,
    weight_CW: Tensor,
    state_SCW: Tensor,
    *,
    slots_in_D: Tensor,
    slots_out_T: Tensor,
    round_sizes: Sequence[int],
) -> Tensor:
    """silu(conv(x)) [T, C] of a few tokens a sequence; `state` [S, C, W - 1] is updated in place.

    Rows are stored one draft round after another: round j has the j-th token of the first
    `round_sizes[j]` sequences, at most as many as in the previous round. Sequence d continues from
    slot `slots_in[d]`, which is read-only. After each token it leaves the last inputs in the
    `slots_out` of that row. A sequence's `slots_out` may include its own `slots_in`. No slot may be
    written twice, or written by one sequence and read by another. On a GPU -1 in `slots_out` writes
    nothing, for padding in a captured step.
    """
    num_tokens, num_channels = x_TC.shape
    width = weight_CW.shape[1]
    past_DCW = state_SCW.index_select(0, slots_in_D)
    inputs_YC = torch.cat([past_DCW.mT.reshape(-1, num_channels), x_TC.to(state_SCW.dtype)])
    rows = _window_rows(tuple(round_sizes), width, x_TC.device)
    window_TWC = inputs_YC.index_select(0, rows).view(num_tokens, width, num_channels)
    state_SCW.index_copy_(0, slots_out_T, window_TWC[:, 1:].mT)
    out_TC = (window_TWC.float() * weight_CW.float().t()).sum(1)
    return F.silu(out_TC, inplace=True).to(x_TC.dtype)


@lru_cache
def _window_rows(round_sizes: tuple[int, ...], width: int, device: torch.device) -> Tensor:
    """Indexes of each token's W inputs, in order: in all sequences' past inputs, then the rows."""
    num_past = width - 1
    bounds = list(accumulate(round_sizes, initial=round_sizes[0] * num_past))

    def row_of(sequence: int, j: int) -> int:
        return bounds[j] + sequence if j >= 0 else (sequence + 1) * num_past + j

    rows = [
        row_of(sequence, j - num_past + tap)
        for j, size in enumerate(round_sizes)
        for sequence in range(size)
        for tap in range(width)
    ]
    return torch.tensor(rows, device=device)


def _convolve(inputs_TC: Tensor, weight_CW: Tensor) -> Tensor:
    """One multiply-add of whole rows per tap, so channels stay contiguous without a transpose."""
    width = weight_CW.shape[1]
    num_tokens = inputs_TC.shape[0] - width + 1
    taps_WC = weight_CW.float().t().contiguous()
    inputs_TC = inputs_TC.float()
    out_TC = inputs_TC[:num_tokens] * taps_WC[0]
    for tap in range(1, width):
        out_TC.addcmul_(inputs_TC[tap : tap + num_tokens], taps_WC[tap])
    return F.silu(out_TC, inplace=True)
