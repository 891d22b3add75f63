"""The gated delta rule of decode in Triton: reads each state once, writes it once per token.

A program keeps one sequence's state of one head, or a block of its columns, in registers; columns
are independent. The kernel is bound by the bytes of the states. So a program is a single warp,
which sums over K without a barrier, and many programs keep the memory busy.

T packed tokens, D sequences, S slots, G key heads, H value heads, K and V head dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.draft_rounds import SIZE_NAMES, kernel_sizes
from segue.kernels.gated_delta_rule.checks import check
from segue.kernels.gated_delta_rule.reference import L2_EPS

EPS = tl.constexpr(L2_EPS)
BLOCK_V = 16
"""64 bytes of a row of the state: two sectors, and 64 of a thread's registers for 128 rows."""


@triton.jit
def next_token(state_KV, query_K, key_K, value_V, log_decay, rate, K: tl.constexpr):
    """The state after a token, and the token's output [V], both in float32."""
    query_K, key_K = query_K.to(tl.float32), key_K.to(tl.float32)
    query_K *= tl.rsqrt(tl.sum(query_K * query_K, axis=0) + EPS) * (1.0 / tl.sqrt(K * 1.0))
    key_K *= tl.rsqrt(tl.sum(key_K * key_K, axis=0) + EPS)
    state_KV *= tl.exp(log_decay)
    recalled_V = tl.sum(state_KV * key_K[:, None], axis=0)
    correction_V = (value_V.to(tl.float32) - recalled_V) * rate
    state_KV += key_K[:, None] * correction_V[None, :]
    return state_KV, tl.sum(state_KV * query_K[:, None], axis=0)


@triton.jit(do_not_specialize=SIZE_NAMES)
def decode_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    log_decay_ptr,
    rate_ptr,
    state_ptr,
    out_ptr,
    slots_in_ptr,
    slots_out_ptr,
    size_0,
    size_1,
    size_2,
    size_3,
    size_4,
    size_5,
    size_6,
    size_7,
    q_stride,
    k_stride,
    v_stride,
    log_decay_stride,
    rate_stride,
    NUM_ROUNDS: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    REPEATS: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    sizes = (size_0, size_1, size_2, size_3, size_4, size_5, size_6, size_7)
    head = tl.program_id(1)
    sequence = tl.program_id(2).to(tl.int64)
    dims_K = tl.arange(0, K)
    dims_V = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    key_columns_K = (head // REPEATS) * K + dims_K
    value_columns_V = head * V + dims_V
    part_KV = head * K * V + dims_K[:, None] * V + dims_V[None, :]

    # Read everything before writing anything: the slot read may be one of those written, and no
    # token's inputs wait for the previous token.
    slot_in = tl.load(slots_in_ptr + sequence).to(tl.int64)
    state_KV = tl.load(state_ptr + slot_in * NUM_HEADS * K * V + part_KV)
    queries, keys, values, log_decays, rates, slots_out = (), (), (), (), (), ()
    row = sequence
    for j in tl.static_range(NUM_ROUNDS):
        is_own = sequence < sizes[j]
        queries += (tl.load(q_ptr + row * q_stride + key_columns_K, is_own, other=0.0),)
        keys += (tl.load(k_ptr + row * k_stride + key_columns_K, is_own, other=0.0),)
        values += (tl.load(v_ptr + row * v_stride + value_columns_V, is_own, other=0.0),)
        log_decay = tl.load(log_decay_ptr + row * log_decay_stride + head, is_own, other=0.0)
        log_decays += (log_decay,)
        rates += (tl.load(rate_ptr + row * rate_stride + head, is_own, other=0.0),)
        slots_out += (tl.load(slots_out_ptr + row, is_own, other=-1).to(tl.int64),)
        row += sizes[j]

    row = sequence
    for j in tl.static_range(NUM_ROUNDS):
        state_KV, out_V = next_token(
            state_KV, queries[j], keys[j], values[j], log_decays[j], rates[j], K
        )
        out_ptrs_V = out_ptr + row * (NUM_HEADS * V) + value_columns_V
        tl.store(out_ptrs_V, out_V, sequence < sizes[j])
        tl.store(
            state_ptr + slots_out[j] * NUM_HEADS * K * V + part_KV, state_KV, slots_out[j] >= 0
        )
        row += sizes[j]


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
    """As the reference's."""
    check(q_TGK, k_TGK, v_THV, log_decay_TH, rate_TH, state_SHKV)
    sizes = kernel_sizes(round_sizes, num_sequences=len(slots_in_D), num_rows=len(q_TGK))
    num_k_heads, k_dim = q_TGK.shape[1:]
    num_heads, v_dim = v_THV.shape[1:]
    out_THV = torch.empty(v_THV.shape, dtype=torch.float32, device=v_THV.device)
    decode_kernel[(v_dim // BLOCK_V, num_heads, round_sizes[0])](
        q_TGK,
        k_TGK,
        v_THV,
        log_decay_TH,
        rate_TH,
        state_SHKV,
        out_THV,
        slots_in_D,
        slots_out_T,
        *sizes,
        q_TGK.stride(0),
        k_TGK.stride(0),
        v_THV.stride(0),
        log_decay_TH.stride(0),
        rate_TH.stride(0),
        NUM_ROUNDS=len(round_sizes),
        NUM_HEADS=num_heads,
        REPEATS=num_heads // num_k_heads,
        K=k_dim,
        V=v_dim,
        BLOCK_V=BLOCK_V,
        num_warps=1,
    )
    return out_THV
