"""The gated delta rule: chunks of long sequences in parallel, or a few tokens of many sequences.

T packed tokens, N sequences of a prefill, M prefill segments, D sequences of a decode, S slots, G
key heads, H value heads (a multiple of G; key head g serves adjacent value heads), K and V head
dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from segue.kernels import dispatch
from segue.kernels.gated_delta_rule import reference

__all__ = ["gated_delta_rule_decode", "gated_delta_rule_prefill"]


def gated_delta_rule_prefill(
    q_TGK: Tensor,
    k_TGK: Tensor,
    v_THV: Tensor,
    log_decay_TH: Tensor,
    rate_TH: Tensor,
    state_SHKV: Tensor,
    *,
    cu_tokens_M1: Tensor,
    slots_out_M: Tensor,
    cu_segments_N1: Tensor,
    slots_in_N: Tensor,
) -> Tensor:
    """Outputs [T, H, V] in float32 of packed sequences; `state` is updated in place.

    Segment m is rows cu_tokens[m] to cu_tokens[m + 1], at least one, and leaves its state in slot
    `slots_out[m]`. Sequence n is segments cu_segments[n] to cu_segments[n + 1]. Each segment starts
    where the previous one ends; the first continues from slot `slots_in[n]` (`NO_SLOT`: zeros). No
    slot may be written twice, or read by one sequence and written by another. Dtypes are as for
    decode.
    """
    if dispatch.takes_kernels(q_TGK):
        from segue.kernels.gated_delta_rule import triton_prefill

        run = triton_prefill.gated_delta_rule_prefill
    else:
        run = reference.gated_delta_rule_prefill
    return run(
        q_TGK,
        k_TGK,
        v_THV,
        log_decay_TH,
        rate_TH,
        state_SHKV,
        cu_tokens_M1=cu_tokens_M1,
        slots_out_M=slots_out_M,
        cu_segments_N1=cu_segments_N1,
        slots_in_N=slots_in_N,
    )


def gated_delta_rule_decode(
    q_TGK: Tensor,
    k_TGK: Tensor,
    v_THV: Tensor,
    log_decay_TH: Tensor,
    rate_TH: Tensor,
    state_SHKV: Tensor,
    *,
    slots_in_D: Tensor,
    slots_out_T: Tensor,
    round_sizes: Sequence[int],
) -> Tensor:
    """Outputs [T, H, V] in float32 of a few tokens a sequence; `state` is updated in place.

    Rows are stored one draft round after another: round j has the j-th token of the first
    `round_sizes[j]` sequences, at most as many as in the previous round. Sequence d continues from
    slot `slots_in[d]`, which is read-only. After each token it leaves the state in the
    `slots_out` of that row. A sequence's `slots_out` may include its own `slots_in`. No slot may be
    written twice, or written by one sequence and read by another. On a GPU -1 in `slots_out` writes
    nothing, for padding in a captured step.

    `log_decay` and `rate` are float32, `state` [S, H, K, V] float32, the rest any dtype.
    Everything is computed in float32.
    """
    if dispatch.takes_kernels(q_TGK):
        from segue.kernels.gated_delta_rule import triton_decode

        run = triton_decode.gated_delta_rule_decode
    else:
        run = reference.gated_delta_rule_decode
    return run(
        q_TGK,
        k_TGK,
        v_THV,
        log_decay_TH,
        rate_TH,
        state_SHKV,
        slots_in_D=slots_in_D,
        slots_out_T=slots_out_T,
        round_sizes=round_sizes,
    )
