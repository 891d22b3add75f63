"""The causal convolution of decode in Triton: a sequence's inputs lie in registers.

T packed tokens, D sequences, S slots, C channels, W kernel width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.causal_conv.triton import check, silu
from segue.kernels.draft_rounds import SIZE_NAMES, kernel_sizes

BLOCK_CHANNELS = 64
"""Many programs with few bytes each, since a pass is short."""


@triton.jit
def inputs_of_sequence(
    x_ptr,
    state_ptr,
    slot_in,
    sequence,
    sizes,
    channels_C,
    inside_C,
    num_channels,
    x_stride,
    NUM_ROUNDS: tl.constexpr,
    PAST: tl.constexpr,
):
    """Of a decoded sequence: the inputs before its tokens, from its slot, then its tokens'."""
    inputs = ()
    past_ptrs_C = state_ptr + (slot_in * num_channels + channels_C) * PAST
    for i in tl.static_range(PAST):
        inputs += (tl.load(past_ptrs_C + i, mask=inside_C, other=0.0),)
    row = sequence
    for j in tl.static_range(NUM_ROUNDS):
        is_own_C = inside_C & (sequence < sizes[j])
        inputs += (tl.load(x_ptr + row * x_stride + channels_C, mask=is_own_C, other=0.0),)
        row += sizes[j]
    return inputs


@triton.jit
def taps_of(weight_ptr, channels_C, inside_C, WIDTH: tl.constexpr):
    """The weights of each tap, in float32."""
    taps = ()
    for tap in tl.static_range(WIDTH):
        weight_C = tl.load(weight_ptr + channels_C * WIDTH + tap, mask=inside_C, other=0.0)
        taps += (weight_C.to(tl.float32),)
    return taps


@triton.jit
def convolved(inputs, taps, j: tl.constexpr, WIDTH: tl.constexpr):
    """silu(conv(x)) of the j-th token in float32, from all inputs of its sequence."""
    sum_C = tl.zeros_like(taps[0])
    for tap in tl.static_range(WIDTH):
        sum_C += inputs[j + tap].to(tl.float32) * taps[tap]
    return silu(sum_C)


@triton.jit
def keep_inputs(
    state_ptr,
    slot_out,
    inputs,
    j: tl.constexpr,
    channels_C,
    inside_C,
    num_channels,
    PAST: tl.constexpr,
):
    """Leaves the last inputs up to the j-th token in its slot, if it has one."""
    ptrs_C = state_ptr + (slot_out * num_channels + channels_C) * PAST
    for i in tl.static_range(PAST):
        tl.store(ptrs_C + i, inputs[j + 1 + i], mask=inside_C & (slot_out >= 0))


@triton.jit(do_not_specialize=SIZE_NAMES)
def causal_conv_decode_kernel(
    x_ptr,
    weight_ptr,
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
    num_channels,
    x_stride,
    NUM_ROUNDS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    PAST: tl.constexpr = WIDTH - 1
    sizes = (size_0, size_1, size_2, size_3, size_4, size_5, size_6, size_7)
    sequence = tl.program_id(0).to(tl.int64)
    channels_C = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_C = channels_C < num_channels

    # Read everything before writing anything: the slot read may be one of those written.
    taps = taps_of(weight_ptr, channels_C, inside_C, WIDTH)
    slot_in = tl.load(slots_in_ptr + sequence).to(tl.int64)
    channels = (channels_C, inside_C, num_channels)
    where = (x_ptr, state_ptr, slot_in, sequence, sizes)
    inputs = inputs_of_sequence(*where, *channels, x_stride, NUM_ROUNDS, PAST)
    tl.debug_barrier()

    row = sequence
    for j in tl.static_range(NUM_ROUNDS):
        is_own = sequence < sizes[j]
        out_ptrs_C = out_ptr + row * num_channels + channels_C
        tl.store(out_ptrs_C, convolved(inputs, taps, j, WIDTH), mask=inside_C & is_own)
        slot_out = tl.load(slots_out_ptr + row, mask=is_own, other=-1).to(tl.int64)
        keep_inputs(state_ptr, slot_out, inputs, j, *channels, PAST)
        row += sizes[j]


def causal_conv_decode(
    x_TC: Tensor,
    weight_CW: Tensor,
    state_SCW: Tensor,
    *,
    slots_in_D: Tensor,
    slots_out_T: Tensor,
    round_sizes: Sequence[int],
) -> Tensor:
    """As the reference's."""
    check(x_TC, weight_CW, state_SCW)
    sizes = kernel_sizes(round_sizes, num_sequences=len(slots_in_D), num_rows=len(x_TC))
    num_channels = x_TC.shape[1]
    out_TC = torch.empty(x_TC.shape, dtype=x_TC.dtype, device=x_TC.device)
    grid = (round_sizes[0], triton.cdiv(num_channels, BLOCK_CHANNELS))
    causal_conv_decode_kernel[grid](
        x_TC,
        weight_CW,
        state_SCW,
        out_TC,
        slots_in_D,
        slots_out_T,
        *sizes,
        num_channels,
        x_TC.stride(0),
        NUM_ROUNDS=len(round_sizes),
        WIDTH=weight_CW.shape[1],
        BLOCK_C=BLOCK_CHANNELS,
        num_warps=1,
    )
    return out_TC
