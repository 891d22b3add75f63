"""A sequence of the gated delta rule in parts that run side by side: see `triton_prefill`.

A scan is a chain of chunks, and with few heads (0.8B, or a rank of several) most multiprocessors
wait for it. What a part does to the state is S ↦ A S + B, where B is what it makes of an empty
state and A, without the values, of the identity:

    part      A and B of each part but the last, all at once; of the first, which knows its state,
              the state after it
    combine   the states at the parts' starts, one after the other: S ← A S + B
    scan      all parts at once, from these states

So a chain is one of P parts long, twice, and the first time without outputs. The same is done over
devices in context parallelism, and within one by FlashQLA (Qwen team, 2026).

As in `triton_prefill`, and P parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.blocks import first_block_of
from segue.kernels.gated_delta_rule.reference import CHUNK_TOKENS
from segue.kernels.gated_delta_rule.triton_scan import (
    advanced,
    chunks_of_part,
    corrected,
    scan_stages,
    scan_warps,
)

BLOCKS_V = (32, 16)
"""The larger the block, the fewer programs read the same keys and queries."""
WANTED_PROGRAMS = 112
"""For a scan: about one per multiprocessor. Actual counts are a power of two times a small number.
"""
MOST_PARTS = 8
_MIN_CHUNKS = 8
"""Of a part."""
_PART_SHARE = 0.6
"""Of a chunk's time in `scan`: three products of five, without queries and outputs."""
_MARGIN = 1.1


@dataclass(frozen=True, slots=True)
class Cut:
    """How a scan is cut into programs."""

    block_v: int
    """Columns of V."""
    num_parts: int = 1
    """Of each sequence."""


def cut_for(num_chunks: int, *, num_states: int, num_programs: int, k_dim: int, v_dim: int) -> Cut:
    """`num_chunks`: of a sequence; `num_states`: of all sequences and heads; `num_programs`: as
    many as run at a time. Parts only where they should make the chain shorter."""
    fitting = [block for block in BLOCKS_V if v_dim % block == 0]
    busy = [block for block in fitting if v_dim // block * num_states >= WANTED_PROGRAMS]
    whole = Cut(busy[0] if busy else fitting[-1])
    widest = fitting[0]
    num_v, num_k = v_dim // widest, k_dim // widest

    def chain(num_parts: int) -> float:
        """In chunks of a scan, as programs run in waves."""
        if num_parts == 1:
            return num_chunks * _cdiv(v_dim // whole.block_v * num_states, num_programs)
        length = _cdiv(num_chunks, num_parts)
        first = num_states * (num_v + (num_parts - 2) * (num_v + num_k))
        second = num_states * num_v * num_parts
        waves = _PART_SHARE * _cdiv(first, num_programs) + _cdiv(second, num_programs)
        return length * waves

    most = min(MOST_PARTS, num_chunks // _MIN_CHUNKS)
    if most < 2 or k_dim % widest:
        return whole
    best = min(range(2, most + 1), key=chain)
    return Cut(widest, best) if chain(best) * _MARGIN < chain(1) else whole


def _cdiv(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


@triton.jit(do_not_specialize=["num_parts"])
def part_kernel(
    k_ptr,
    v_ptr,
    solved_ptr,
    scales_ptr,
    state_ptr,
    starts_ptr,
    transitions_ptr,
    cu_tokens_ptr,
    cu_segments_ptr,
    slots_in_ptr,
    num_parts,
    k_stride,
    v_stride,
    NUM_HEADS: tl.constexpr,
    REPEATS: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    head = tl.program_id(1)
    sequence, part = tl.program_id(2) // (num_parts - 1), tl.program_id(2) % (num_parts - 1)
    # The columns of B, then those of A.
    is_b = tl.program_id(0) < V // BLOCK_V
    if (part == 0) & (tl.program_id(0) >= V // BLOCK_V):
        return
    tokens_C = tl.arange(0, C)
    dims_K = tl.arange(0, K)
    columns_V = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    key_columns_1K = ((head // REPEATS) * K + dims_K)[None, :]
    square_CC = tokens_C[:, None] * C + tokens_C[None, :]
    part_KV = head * K * V + dims_K[:, None] * V + columns_V[None, :]

    slot_in = tl.load(slots_in_ptr + sequence).to(tl.int64)
    has_state = is_b & (part == 0) & (slot_in >= 0)
    state_KV = tl.load(state_ptr + slot_in * NUM_HEADS * K * V + part_KV, has_state, other=0.0)
    start = sequence.to(tl.int64) * num_parts + part
    if part == 0:
        # The last part may write this state's slot before the first one reads it.
        tl.store(starts_ptr + start * NUM_HEADS * K * V + part_KV, state_KV)
    is_one_KV = dims_K[:, None] == (columns_V - V)[None, :]
    state_KV = tl.where(is_one_KV, 1.0, state_KV)

    first_segment = tl.load(cu_segments_ptr + sequence)
    end_segment = tl.load(cu_segments_ptr + sequence + 1)
    begin, stop = chunks_of_part(part, num_parts, cu_tokens_ptr, first_segment, end_segment, C)
    num_before = 0
    for segment in range(first_segment, end_segment):
        from_row = tl.load(cu_tokens_ptr + segment).to(tl.int64)
        end = tl.load(cu_tokens_ptr + segment + 1).to(tl.int64)
        first_chunk = first_block_of(from_row, segment, C)
        num_chunks = tl.cdiv(end - from_row, C).to(tl.int32)
        first, last = tl.maximum(begin - num_before, 0), tl.minimum(stop - num_before, num_chunks)
        for i in range(first, last):
            own_C1 = tl.minimum(from_row + i * C + tokens_C, end - 1)[:, None]
            place = (first_chunk + i) * NUM_HEADS + head
            k_CK = tl.load(k_ptr + own_C1 * k_stride + key_columns_1K)
            v_ptrs_CV = v_ptr + own_C1 * v_stride + (head * V + columns_V)[None, :]
            v_CV = tl.load(v_ptrs_CV, is_b, other=0.0)
            solved_CC = tl.load(solved_ptr + place * C * C + square_CC)
            scales_ptrs = scales_ptr + place * 4 * C
            recall_scale_C = tl.load(scales_ptrs + C + tokens_C)
            keep_scale_C = tl.load(scales_ptrs + 2 * C + tokens_C)
            decay_V = tl.load(scales_ptrs + 3 * C + tl.arange(0, BLOCK_V))
            correction_CV = corrected(state_KV, k_CK, v_CV, solved_CC, recall_scale_C)
            state_KV = advanced(state_KV, k_CK, correction_CV, keep_scale_C, decay_V)
        num_before += num_chunks

    if is_b:
        tl.store(starts_ptr + (start + 1) * NUM_HEADS * K * V + part_KV, state_KV)
    else:
        of_part_ptr = transitions_ptr + (start - sequence) * NUM_HEADS * K * K + head * K * K
        tl.store(of_part_ptr + dims_K[:, None] * K + (columns_V - V)[None, :], state_KV)


@triton.jit(do_not_specialize=["num_parts"])
def combine_kernel(
    starts_ptr,
    transitions_ptr,
    num_parts,
    NUM_HEADS: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
):
    head = tl.program_id(1)
    sequence = tl.program_id(2).to(tl.int64)
    dims_K = tl.arange(0, K)
    columns_V = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    part_KV = head * K * V + dims_K[:, None] * V + columns_V[None, :]
    square_KK = head * K * K + dims_K[:, None] * K + dims_K[None, :]
    starts_ptr += sequence * num_parts * NUM_HEADS * K * V
    transitions_ptr += sequence * (num_parts - 1) * NUM_HEADS * K * K
    state_KV = tl.load(starts_ptr + NUM_HEADS * K * V + part_KV)
    for part in range(1, num_parts - 1):
        a_KK = tl.load(transitions_ptr + part * NUM_HEADS * K * K + square_KK)
        after_ptrs_KV = starts_ptr + (part + 1) * NUM_HEADS * K * V + part_KV
        state_KV = tl.dot(a_KK, state_KV, input_precision=PRECISION) + tl.load(after_ptrs_KV)
        tl.store(after_ptrs_KV, state_KV)


def part_starts(
    k_TGK: Tensor,
    v_THV: Tensor,
    solved_BHCC: Tensor,
    scales_BH4C: Tensor,
    state_SHKV: Tensor,
    *,
    cut: Cut,
    cu_tokens_M1: Tensor,
    cu_segments_N1: Tensor,
    slots_in_N: Tensor,
) -> Tensor:
    """The states where the parts start [N, P, H, K, V]."""
    num_heads, k_dim, v_dim = state_SHKV.shape[1:]
    num_sequences = len(slots_in_N)
    starts_NPHKV = state_SHKV.new_empty(num_sequences, cut.num_parts, num_heads, k_dim, v_dim)
    transitions = state_SHKV.new_empty(num_sequences, cut.num_parts - 1, num_heads, k_dim, k_dim)
    shapes = {"NUM_HEADS": num_heads, "K": k_dim, "V": v_dim, "BLOCK_V": cut.block_v}
    num_v, num_k = v_dim // cut.block_v, k_dim // cut.block_v
    part_kernel[(num_v + num_k, num_heads, num_sequences * (cut.num_parts - 1))](
        k_TGK,
        v_THV,
        solved_BHCC,
        scales_BH4C,
        state_SHKV,
        starts_NPHKV,
        transitions,
        cu_tokens_M1,
        cu_segments_N1,
        slots_in_N,
        cut.num_parts,
        k_TGK.stride(0),
        v_THV.stride(0),
        **shapes,
        REPEATS=num_heads // k_TGK.shape[1],
        C=CHUNK_TOKENS,
        num_warps=scan_warps(cut.block_v),
        num_stages=scan_stages(k_TGK.device),
    )
    if cut.num_parts > 2:
        combine_kernel[(num_v, num_heads, num_sequences)](
            starts_NPHKV,
            transitions,
            cut.num_parts,
            **shapes,
            PRECISION="ieee" if k_TGK.dtype is torch.float32 else "tf32",
            num_warps=8,
            num_stages=2,
        )
    return starts_NPHKV
