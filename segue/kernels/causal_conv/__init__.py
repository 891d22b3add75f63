"""Depthwise causal convolution with SiLU, which keeps its last inputs in slots.

T packed tokens, N sequences of a prefill, M prefill segments, D sequences of a decode, S slots, C
channels, W kernel width.
A slot holds the W - 1 inputs before the next token, oldest first.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from segue.kernels import dispatch
from segue.kernels.causal_conv import reference

__all__ = ["causal_conv_decode", "causal_conv_prefill"]


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
    if dispatch.takes_kernels(x_TC):
        from segue.kernels.causal_conv import triton

        run = triton.causal_conv_prefill
    else:
        run = reference.causal_conv_prefill
    return run(
        x_TC,
        weight_CW,
        state_SCW,
        cu_tokens_M1=cu_tokens_M1,
        slots_out_M=slots_out_M,
        cu_segments_N1=cu_segments_N1,
        slots_in_N=slots_in_N,
    )


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
    if dispatch.takes_kernels(x_TC):
        from segue.kernels.causal_conv import triton

        run = triton.causal_conv_decode
    else:
        run = reference.causal_conv_decode
    return run(
        x_TC,
        weight_CW,
        state_SCW,
        slots_in_D=slots_in_D,
        slots_out_T=slots_out_T,
        round_sizes=round_sizes,
    )
