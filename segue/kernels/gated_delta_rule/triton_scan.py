"""The gated delta rule's states in order, in Triton: see `triton_prefill`.

A program has one sequence, head and block of V, and keeps its part of the state in registers from
the first token to the last; or one part of a sequence, whose states at its start `triton_parts` has
computed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from segue.kernels.blocks import first_block_of


@triton.jit(do_not_specialize=["num_parts"])
def scan_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    solved_ptr,
    attention_ptr,
    scales_ptr,
    state_ptr,
    out_ptr,
    cu_tokens_ptr,
    slots_out_ptr,
    cu_segments_ptr,
    slots_in_ptr,
    starts_ptr,
    num_parts,
    q_stride,
    k_stride,
    v_stride,
    NUM_HEADS: tl.constexpr,
    REPEATS: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    head, sequence = tl.program_id(1), tl.program_id(2) // num_parts
    dtype = k_ptr.dtype.element_ty
    tokens_C = tl.arange(0, C)
    dims_K = tl.arange(0, K)
    dims_V = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    key_columns_1K = ((head // REPEATS) * K + dims_K)[None, :]
    value_columns_1V = (head * V + dims_V)[None, :]
    square_CC = tokens_C[:, None] * C + tokens_C[None, :]

    part_KV = head * K * V + dims_K[:, None] * V + dims_V[None, :]
    first_segment = tl.load(cu_segments_ptr + sequence)
    end_segment = tl.load(cu_segments_ptr + sequence + 1)
    if starts_ptr is None:
        slot_in = tl.load(slots_in_ptr + sequence).to(tl.int64)
        of_sequence_ptr = state_ptr + slot_in * NUM_HEADS * K * V
        state_KV = tl.load(of_sequence_ptr + part_KV, slot_in >= 0, other=0.0)
    else:
        state_KV = tl.load(starts_ptr + tl.program_id(2) * NUM_HEADS * K * V + part_KV)
        part = tl.program_id(2) % num_parts
        begin, stop = chunks_of_part(part, num_parts, cu_tokens_ptr, first_segment, end_segment, C)

    num_before = 0
    for segment in range(first_segment, end_segment):
        start = tl.load(cu_tokens_ptr + segment).to(tl.int64)
        end = tl.load(cu_tokens_ptr + segment + 1).to(tl.int64)
        first_chunk = first_block_of(start, segment, C)
        num_chunks = tl.cdiv(end - start, C).to(tl.int32)
        if starts_ptr is None:
            first, last = 0, num_chunks
        else:
            first, last = (
                tl.maximum(begin - num_before, 0),
                tl.minimum(stop - num_before, num_chunks),
            )
        for i in range(first, last):
            rows_C = start + i * C + tokens_C
            # Missing rows have scales of zero, whatever is loaded in their place.
            own_C1 = tl.minimum(rows_C, end - 1)[:, None]
            place = (first_chunk + i) * NUM_HEADS + head
            k_CK = tl.load(k_ptr + own_C1 * k_stride + key_columns_1K)
            q_CK = tl.load(q_ptr + own_C1 * q_stride + key_columns_1K)
            v_CV = tl.load(v_ptr + own_C1 * v_stride + value_columns_1V)
            solved_CC = tl.load(solved_ptr + place * C * C + square_CC)
            attention_CC = tl.load(attention_ptr + place * C * C + square_CC)
            scales_ptrs = scales_ptr + place * 4 * C
            q_scale_C = tl.load(scales_ptrs + tokens_C)
            recall_scale_C = tl.load(scales_ptrs + C + tokens_C)
            keep_scale_C = tl.load(scales_ptrs + 2 * C + tokens_C)
            decay_V = tl.load(scales_ptrs + 3 * C + tl.arange(0, BLOCK_V))

            read_CV = tl.dot(q_CK, state_KV.to(dtype), input_precision="ieee")
            correction_CV = corrected(state_KV, k_CK, v_CV, solved_CC, recall_scale_C)
            state_KV = advanced(state_KV, k_CK, correction_CV, keep_scale_C, decay_V)
            out_CV = tl.dot(
                attention_CC,
                correction_CV.to(dtype),
                read_CV * q_scale_C[:, None],
                input_precision="ieee",
            )
            out_ptrs = out_ptr + rows_C[:, None] * (NUM_HEADS * V) + value_columns_1V
            tl.store(out_ptrs, out_CV, (rows_C < end)[:, None])
        slot_out = tl.load(slots_out_ptr + segment).to(tl.int64)
        after_ptrs_KV = state_ptr + slot_out * NUM_HEADS * K * V + part_KV
        if starts_ptr is None:
            tl.store(after_ptrs_KV, state_KV)
        else:
            num_before += num_chunks
            ends_here = (begin < num_before) & (num_before <= stop)
            tl.store(after_ptrs_KV, state_KV, ends_here)


@triton.jit
def corrected(state_KV, k_CK, v_CV, solved_CC, recall_scale_C):
    """The corrections of a chunk [C, V], before decays."""
    dtype = k_CK.dtype
    recalled_CV = tl.dot(k_CK, state_KV.to(dtype), input_precision="ieee")
    missing_CV = v_CV.to(tl.float32) - recalled_CV * recall_scale_C[:, None]
    return tl.dot(solved_CC, missing_CV.to(dtype), input_precision="ieee")


@triton.jit
def advanced(state_KV, k_CK, correction_CV, keep_scale_C, decay_V):
    """The state after a chunk."""
    kept_CV = (correction_CV * keep_scale_C[:, None]).to(k_CK.dtype)
    # Doubled (in the scale), then halved: otherwise the loop would carry and scale a product's
    # accumulator that other products read, which Triton miscompiles (triton-lang/triton#10993).
    new_KV = 0.5 * tl.dot(tl.trans(k_CK), kept_CV, input_precision="ieee")
    return state_KV * decay_V[None, :] + new_KV


@triton.jit
def chunks_of_part(part, num_parts, cu_tokens_ptr, first_segment, end_segment, C: tl.constexpr):
    """The chunks of a sequence that belong to one of its parts: first, and the one after the last.
    The last parts may have none."""
    num_chunks = 0
    for segment in range(first_segment, end_segment):
        start = tl.load(cu_tokens_ptr + segment)
        end = tl.load(cu_tokens_ptr + segment + 1)
        num_chunks += tl.cdiv(end - start, C).to(tl.int32)
    each = tl.cdiv(num_chunks, num_parts)
    return part * each, (part + 1) * each


_RACES_WITH_STAGES = (10, 3)
"""Compute capability of Blackwell Ultra. There Triton gave different bits from run to run for
products added to a state in a pipelined loop, with 8 warps, 32 columns and two or three stages
(triton-lang/triton#10590). Whether these kernels are among them is not known."""


def scan_warps(block_v: int) -> int:
    """One warp group, or two if one has too few registers."""
    return 4 if block_v <= 16 else 8


def scan_stages(device: torch.device) -> int:
    """Of loads; without a pipeline where it may be wrong."""
    is_cuda = device.type == "cuda"
    races = is_cuda and torch.cuda.get_device_capability(device) == _RACES_WITH_STAGES
    return 1 if races else 3
