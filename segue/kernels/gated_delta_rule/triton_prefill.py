"""The gated delta rule of prefill in Triton: all chunks at once, then the states in order.

Uses the WY form of a chunk (Yang et al., *Parallelizing Linear Transformers with the Delta Rule
over Sequence Length*, 2024; *Gated Delta Networks*, 2025) in the order with the least rounding. g
is the decay since the chunk's start and S the state there; rows of keys and queries are not
normalised, their lengths are divided out afterwards:

    prepare   X = (I + L)^-1 diag(rate),  L strictly lower: rate_i (k_i · k_j) g_i / g_j
              A = (q_i · k_j) g_i / g_j for j <= i
    scan      corrections Y = X (V - g K S)
              outputs       = g Q S + A Y
              S ← g_end S + Kᵀ (g_end / g Y)

`prepare` has a program for each chunk and head, and `scan` (`triton_scan`) one for each sequence,
head and block of V; with few heads, long sequences are cut into parts (`triton_parts`). Products
have operands in the inputs' dtype and sums in float32; those that solve for X are in tf32.

T packed tokens, N sequences, M prefill segments, S slots, B chunks, G key heads, H value heads, K
and V head dimensions, C tokens of a chunk.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.blocks import (
    first_block_of,
    max_blocks,
    num_multiprocessors,
    range_of_block,
)
from segue.kernels.gated_delta_rule.checks import check
from segue.kernels.gated_delta_rule.reference import CHUNK_TOKENS, L2_EPS
from segue.kernels.gated_delta_rule.triton_inverse import inverse
from segue.kernels.gated_delta_rule.triton_parts import cut_for, part_starts
from segue.kernels.gated_delta_rule.triton_scan import scan_kernel, scan_stages, scan_warps

EPS = tl.constexpr(L2_EPS)


@triton.jit(do_not_specialize=["num_segments"])
def prepare_kernel(
    q_ptr,
    k_ptr,
    log_decay_ptr,
    rate_ptr,
    solved_ptr,
    attention_ptr,
    scales_ptr,
    cu_tokens_ptr,
    num_segments,
    q_stride,
    k_stride,
    log_decay_stride,
    rate_stride,
    NUM_HEADS: tl.constexpr,
    REPEATS: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    chunk, head = tl.program_id(0), tl.program_id(1)
    segment = range_of_block(chunk, cu_tokens_ptr, None, num_segments, C)
    start = tl.load(cu_tokens_ptr + segment).to(tl.int64)
    end = tl.load(cu_tokens_ptr + segment + 1).to(tl.int64)
    first_row = start + (chunk - first_block_of(start, segment, C)) * C
    if first_row >= end:
        return

    tokens_C = tl.arange(0, C)
    rows_C = first_row + tokens_C
    inside_C = rows_C < end
    columns_CK = ((head // REPEATS) * K + tl.arange(0, K))[None, :]
    # Missing rows are zeros, which change no state.
    q_CK = tl.load(q_ptr + rows_C[:, None] * q_stride + columns_CK, inside_C[:, None], other=0.0)
    k_CK = tl.load(k_ptr + rows_C[:, None] * k_stride + columns_CK, inside_C[:, None], other=0.0)
    rate_C = tl.load(rate_ptr + rows_C * rate_stride + head, inside_C, other=0.0)
    log_decay_C = tl.load(log_decay_ptr + rows_C * log_decay_stride + head, inside_C, other=0.0)
    q_scale_C = tl.where(inside_C, _inverse_length(q_CK) * (1.0 / tl.sqrt(K * 1.0)), 0.0)
    k_scale_C = tl.where(inside_C, _inverse_length(k_CK), 0.0)

    # As two float32, since the sums may reach hundreds and what matters is a small difference.
    elapsed_C = tl.cumsum(log_decay_C.to(tl.float64), 0)
    all_elapsed = tl.sum(log_decay_C.to(tl.float64), 0)
    high_C = elapsed_C.to(tl.float32)
    low_C = (elapsed_C - high_C.to(tl.float64)).to(tl.float32)
    until_end_C = (all_elapsed - elapsed_C).to(tl.float32)
    between_CC = (high_C[:, None] - high_C[None, :]) + (low_C[:, None] - low_C[None, :])
    is_past_CC = tokens_C[:, None] >= tokens_C[None, :]
    # Before exp: above the diagonal the differences are positive and may overflow.
    decay_CC = tl.exp(tl.where(is_past_CC, between_CC, float("-inf")))

    scaled_CC = decay_CC * k_scale_C[None, :]
    k_CK_T = tl.trans(k_CK)
    query_key_CC = tl.dot(q_CK, k_CK_T, input_precision="ieee")
    attention_CC = query_key_CC * scaled_CC * q_scale_C[:, None]
    key_key_CC = tl.dot(k_CK, k_CK_T, input_precision="ieee")
    system_CC = key_key_CC * scaled_CC * (k_scale_C * rate_C)[:, None]
    solved_CC = inverse(system_CC, C, PRECISION) * rate_C[None, :]

    place = chunk.to(tl.int64) * NUM_HEADS + head
    square_CC = place * C * C + tokens_C[:, None] * C + tokens_C[None, :]
    tl.store(solved_ptr + square_CC, solved_CC)
    tl.store(attention_ptr + square_CC, attention_CC)
    scales_ptrs = scales_ptr + place * 4 * C + tokens_C
    since_start_C = tl.exp(high_C)
    tl.store(scales_ptrs, q_scale_C * since_start_C)
    tl.store(scales_ptrs + C, k_scale_C * since_start_C)
    tl.store(scales_ptrs + 2 * C, 2.0 * k_scale_C * tl.exp(until_end_C))
    # One number, stored C times, so that it is loaded together with the others.
    tl.store(scales_ptrs + 3 * C, tl.exp(all_elapsed.to(tl.float32) + tl.zeros_like(high_C)))


@triton.jit
def _inverse_length(x_CK):
    x_CK = x_CK.to(tl.float32)
    return tl.rsqrt(tl.sum(x_CK * x_CK, axis=1) + EPS)


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
    """As the reference's."""
    check(q_TGK, k_TGK, v_THV, log_decay_TH, rate_TH, state_SHKV)
    num_tokens, num_k_heads, k_dim = q_TGK.shape
    num_heads, v_dim = v_THV.shape[1:]
    num_segments, num_sequences = len(slots_out_M), len(slots_in_N)
    num_chunks = max_blocks(num_tokens, num_segments, CHUNK_TOKENS)
    device, dtype = q_TGK.device, q_TGK.dtype
    out_THV = torch.empty((num_tokens, num_heads, v_dim), dtype=torch.float32, device=device)
    if not num_tokens:
        return out_THV
    squares = (num_chunks, num_heads, CHUNK_TOKENS, CHUNK_TOKENS)
    solved_BHCC = torch.empty(squares, dtype=dtype, device=device)
    attention_BHCC = torch.empty(squares, dtype=dtype, device=device)
    scales_BH4C = torch.empty(
        (num_chunks, num_heads, 4, CHUNK_TOKENS), dtype=torch.float32, device=device
    )
    heads = {"NUM_HEADS": num_heads, "REPEATS": num_heads // num_k_heads, "K": k_dim}
    prepare_kernel[(num_chunks, num_heads)](
        q_TGK,
        k_TGK,
        log_decay_TH,
        rate_TH,
        solved_BHCC,
        attention_BHCC,
        scales_BH4C,
        cu_tokens_M1,
        num_segments,
        q_TGK.stride(0),
        k_TGK.stride(0),
        log_decay_TH.stride(0),
        rate_TH.stride(0),
        **heads,
        C=CHUNK_TOKENS,
        PRECISION="ieee" if dtype is torch.float32 else "tf32",
        num_warps=4,
    )
    cut = cut_for(
        num_chunks // max(num_sequences, 1),
        num_states=num_heads * num_sequences,
        num_programs=num_multiprocessors(device),
        k_dim=k_dim,
        v_dim=v_dim,
    )
    starts = None
    if cut.num_parts > 1:
        starts = part_starts(
            k_TGK,
            v_THV,
            solved_BHCC,
            scales_BH4C,
            state_SHKV,
            cut=cut,
            cu_tokens_M1=cu_tokens_M1,
            cu_segments_N1=cu_segments_N1,
            slots_in_N=slots_in_N,
        )
    scan_kernel[(v_dim // cut.block_v, num_heads, num_sequences * cut.num_parts)](
        q_TGK,
        k_TGK,
        v_THV,
        solved_BHCC,
        attention_BHCC,
        scales_BH4C,
        state_SHKV,
        out_THV,
        cu_tokens_M1,
        slots_out_M,
        cu_segments_N1,
        slots_in_N,
        starts,
        cut.num_parts,
        q_TGK.stride(0),
        k_TGK.stride(0),
        v_THV.stride(0),
        **heads,
        V=v_dim,
        C=CHUNK_TOKENS,
        BLOCK_V=cut.block_v,
        num_warps=scan_warps(cut.block_v),
        num_stages=scan_stages(device),
    )
    return out_THV
