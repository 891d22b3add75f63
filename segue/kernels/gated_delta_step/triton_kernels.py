"""The two kernels of a Gated Delta Net's decode step; see `triton.py` beside it.

T packed tokens, D sequences, S slots, G key heads, H value heads, K and V head dimensions,
C = 2 G K + H V channels of the convolution, W its width.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segue.kernels.causal_conv.triton_decode import (
    convolved,
    inputs_of_sequence,
    keep_inputs,
    taps_of,
)
from segue.kernels.dependent_launch import start
from segue.kernels.draft_rounds import SIZE_NAMES
from segue.kernels.gated_delta_rule.triton_decode import next_token
from segue.kernels.gates.triton import softplus
from segue.kernels.rms_norm.triton_gated import norm_rows


@triton.jit
def _convolved_rounds(
    x_ptr,
    weight_ptr,
    conv_ptr,
    slot_in,
    sequence,
    sizes,
    channels_C,
    num_channels,
    x_stride,
    NUM_ROUNDS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The convolution of a sequence's tokens, rounded to the dtype of x as it is when stored."""
    inside_C = channels_C < num_channels
    taps = taps_of(weight_ptr, channels_C, inside_C, WIDTH)
    channels = (channels_C, inside_C, num_channels)
    where = (x_ptr, conv_ptr, slot_in, sequence, sizes)
    inputs = inputs_of_sequence(*where, *channels, x_stride, NUM_ROUNDS, WIDTH - 1)
    rounds = ()
    for j in tl.static_range(NUM_ROUNDS):
        rounds += (convolved(inputs, taps, j, WIDTH).to(x_ptr.dtype.element_ty),)
    return rounds


@triton.jit(do_not_specialize=SIZE_NAMES)
def step_kernel(
    x_ptr,
    rate_ptr,
    dt_ptr,
    weight_ptr,
    minus_a_ptr,
    dt_bias_ptr,
    state_ptr,
    conv_ptr,
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
    x_stride,
    rate_stride,
    dt_stride,
    NUM_ROUNDS: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    REPEATS: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_V: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    """Outputs in float32 before the norm, and the states; reads what the convolution keeps."""
    start(IS_DEPENDENT)
    KEYS: tl.constexpr = NUM_HEADS // REPEATS * K
    CHANNELS: tl.constexpr = 2 * KEYS + NUM_HEADS * V
    sizes = (size_0, size_1, size_2, size_3, size_4, size_5, size_6, size_7)
    head = tl.program_id(1)
    sequence = tl.program_id(2).to(tl.int64)
    dims_K = tl.arange(0, K)
    dims_V = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    query_columns_K = (head // REPEATS) * K + dims_K
    value_columns_V = head * V + dims_V
    part_KV = head * K * V + dims_K[:, None] * V + dims_V[None, :]

    # Read everything before writing anything: the slot read may be one of those written, and no
    # token's inputs wait for the previous token.
    slot_in = tl.load(slots_in_ptr + sequence).to(tl.int64)
    state_KV = tl.load(state_ptr + slot_in * NUM_HEADS * K * V + part_KV)
    where = (x_ptr, weight_ptr, conv_ptr, slot_in, sequence, sizes)
    queries = _convolved_rounds(*where, query_columns_K, CHANNELS, x_stride, NUM_ROUNDS, WIDTH)
    keys = _convolved_rounds(*where, KEYS + query_columns_K, CHANNELS, x_stride, NUM_ROUNDS, WIDTH)
    values = _convolved_rounds(
        *where, 2 * KEYS + value_columns_V, CHANNELS, x_stride, NUM_ROUNDS, WIDTH
    )
    minus_a = tl.load(minus_a_ptr + head)
    dt_bias = tl.load(dt_bias_ptr + head)
    log_decays, rates, slots_out = (), (), ()
    row = sequence
    for j in tl.static_range(NUM_ROUNDS):
        is_own = sequence < sizes[j]
        dt = tl.load(dt_ptr + row * dt_stride + head, is_own, other=0.0).to(tl.float32)
        log_decays += (minus_a * softplus(dt + dt_bias),)
        rate = tl.load(rate_ptr + row * rate_stride + head, is_own, other=0.0).to(tl.float32)
        rates += (tl.sigmoid(rate),)
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


@triton.jit(do_not_specialize=["num_rows", *SIZE_NAMES])
def finish_kernel(
    out_ptr,
    gate_ptr,
    norm_ptr,
    normed_ptr,
    x_ptr,
    conv_ptr,
    slots_in_ptr,
    slots_out_ptr,
    num_rows,
    size_0,
    size_1,
    size_2,
    size_3,
    size_4,
    size_5,
    size_6,
    size_7,
    num_heads,
    gate_stride,
    num_channels,
    x_stride,
    eps,
    NUM_ROUNDS: tl.constexpr,
    V: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_Z: tl.constexpr,
    BLOCK_C: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    """The first programs norm the outputs, the others leave a sequence's inputs in its slots."""
    start(IS_DEPENDENT)
    num_norms = tl.cdiv(num_rows, BLOCK_Z)
    if tl.program_id(0) < num_norms:
        tensors, block = (out_ptr, gate_ptr, norm_ptr, normed_ptr), tl.program_id(0)
        norm_rows(*tensors, block, num_rows, num_heads, gate_stride, V, eps, BLOCK_Z, V)
    else:
        sizes = (size_0, size_1, size_2, size_3, size_4, size_5, size_6, size_7)
        num_blocks = tl.cdiv(num_channels, BLOCK_C)
        program = tl.program_id(0) - num_norms
        sequence = (program // num_blocks).to(tl.int64)
        channels_C = (program % num_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
        inside_C = channels_C < num_channels
        # Read everything before writing anything: the slot read may be one of those written.
        channels = (channels_C, inside_C, num_channels)
        where = (x_ptr, conv_ptr, tl.load(slots_in_ptr + sequence).to(tl.int64), sequence, sizes)
        inputs = inputs_of_sequence(*where, *channels, x_stride, NUM_ROUNDS, WIDTH - 1)
        tl.debug_barrier()
        row = sequence
        for j in tl.static_range(NUM_ROUNDS):
            is_own = sequence < sizes[j]
            slot_out = tl.load(slots_out_ptr + row, mask=is_own, other=-1).to(tl.int64)
            keep_inputs(conv_ptr, slot_out, inputs, j, *channels, WIDTH - 1)
            row += sizes[j]
