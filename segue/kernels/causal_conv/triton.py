"""The causal convolution of prompts in Triton: reads every input once and writes every output once.

Tokens take their previous inputs from the rows before them; only the first W - 1 tokens of a
sequence need the slot, so all blocks of rows are computed at once. The program with a sequence's
first rows also writes the sequence's slots. No other program reads or writes them, so a slot may be
read and written.

T packed tokens, N sequences of a prefill, M prefill segments, S slots, C channels, W kernel width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.blocks import first_block_of, max_blocks, range_of_block

BLOCK_TOKENS = 32
BLOCK_CHANNELS = 128


@triton.jit(do_not_specialize=["num_sequences"])
def causal_conv_prefill_kernel(
    x_ptr,
    weight_ptr,
    state_ptr,
    out_ptr,
    cu_tokens_ptr,
    slots_out_ptr,
    cu_segments_ptr,
    slots_in_ptr,
    num_sequences,
    num_channels,
    x_stride,
    WIDTH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    PAST: tl.constexpr = WIDTH - 1
    block = tl.program_id(0)
    sequence = range_of_block(block, cu_tokens_ptr, cu_segments_ptr, num_sequences, BLOCK_T)
    first_segment = tl.load(cu_segments_ptr + sequence)
    end_segment = tl.load(cu_segments_ptr + sequence + 1)
    start = tl.load(cu_tokens_ptr + first_segment).to(tl.int64)
    end = tl.load(cu_tokens_ptr + end_segment).to(tl.int64)
    first_row = start + (block - first_block_of(start, sequence, BLOCK_T)) * BLOCK_T
    if first_row >= end:
        return

    channels_C = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_C = channels_C < num_channels
    rows_T = first_row + tl.arange(0, BLOCK_T)
    inside_TC = (rows_T < end)[:, None] & inside_C[None, :]
    # The past inputs of the first rows, from the slot; zeros for the others.
    slot_in = tl.load(slots_in_ptr + sequence).to(tl.int64)
    past_ptrs_C = state_ptr + (slot_in * num_channels + channels_C) * PAST
    has_past_C = inside_C & (slot_in >= 0) & (first_row == start)
    past = ()
    for i in tl.static_range(PAST):
        past += (tl.load(past_ptrs_C + i, mask=has_past_C, other=0.0),)

    sum_TC = tl.zeros((BLOCK_T, BLOCK_C), dtype=tl.float32)
    for tap in tl.static_range(WIDTH):
        source_T = rows_T - PAST + tap
        ptrs_TC = x_ptr + source_T[:, None] * x_stride + channels_C[None, :]
        is_own_TC = (source_T >= start)[:, None] & inside_TC
        input_TC = tl.load(ptrs_TC, mask=is_own_TC, other=0.0)
        for i in tl.static_range(PAST):
            is_past_T1 = (source_T == start - PAST + i)[:, None]
            input_TC = tl.where(is_past_T1, past[i][None, :], input_TC)
        weight_C = tl.load(weight_ptr + channels_C * WIDTH + tap, mask=inside_C, other=0.0)
        sum_TC += input_TC.to(tl.float32) * weight_C.to(tl.float32)[None, :]
    out_ptrs_TC = out_ptr + rows_T[:, None] * num_channels + channels_C[None, :]
    tl.store(out_ptrs_TC, silu(sum_TC), mask=inside_TC)

    if first_row == start:
        # The slot may be one of those written: every thread must read it before any thread writes.
        tl.debug_barrier()
        for segment in range(first_segment, end_segment):
            slot_out = tl.load(slots_out_ptr + segment).to(tl.int64)
            end = tl.load(cu_tokens_ptr + segment + 1).to(tl.int64)
            ptrs_C = state_ptr + (slot_out * num_channels + channels_C) * PAST
            for i in tl.static_range(PAST):
                source = end - PAST + i
                is_own_C = inside_C & (source >= start)
                ptrs = x_ptr + source * x_stride + channels_C
                input_C = tl.load(ptrs, mask=is_own_C, other=0.0)
                for j in tl.static_range(PAST):
                    input_C = tl.where(source - start + PAST == j, past[j], input_C)
                tl.store(ptrs_C + i, input_C, mask=inside_C)


@triton.jit
def silu(x):
    return x / (1.0 + tl.exp(-x))


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
    """As the reference's."""
    check(x_TC, weight_CW, state_SCW)
    num_tokens, num_channels = x_TC.shape
    num_sequences = len(slots_in_N)
    out_TC = torch.empty((num_tokens, num_channels), dtype=x_TC.dtype, device=x_TC.device)
    num_blocks = max_blocks(num_tokens, num_sequences, BLOCK_TOKENS)
    if num_tokens and num_sequences:
        causal_conv_prefill_kernel[(num_blocks, triton.cdiv(num_channels, BLOCK_CHANNELS))](
            x_TC,
            weight_CW,
            state_SCW,
            out_TC,
            cu_tokens_M1,
            slots_out_M,
            cu_segments_N1,
            slots_in_N,
            num_sequences,
            num_channels,
            x_TC.stride(0),
            WIDTH=weight_CW.shape[1],
            BLOCK_T=BLOCK_TOKENS,
            BLOCK_C=BLOCK_CHANNELS,
            num_warps=4,
        )
    return out_TC


def check(x_TC: Tensor, weight_CW: Tensor, state_SCW: Tensor) -> None:
    """Raises `ValueError` if a kernel would read the wrong memory."""
    num_channels, width = weight_CW.shape
    if not (weight_CW.is_contiguous() and state_SCW.is_contiguous() and x_TC.stride(1) == 1):
        raise ValueError(
            "the convolution needs a contiguous weight and state, and contiguous rows of x; "
            f"got strides {weight_CW.stride()}, {state_SCW.stride()} and {x_TC.stride()}"
        )
    if x_TC.shape[1] != num_channels or state_SCW.shape[1:] != (num_channels, width - 1):
        raise ValueError(
            f"a weight of shape {(num_channels, width)} needs x [T, {num_channels}] and a state "
            f"[S, {num_channels}, {width - 1}], got {tuple(x_TC.shape)}, {tuple(state_SCW.shape)}"
        )
    if state_SCW.dtype is not x_TC.dtype:
        raise ValueError(
            f"the state holds inputs, so it has their dtype {x_TC.dtype}, got {state_SCW.dtype}"
        )
