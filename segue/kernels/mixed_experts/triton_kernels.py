"""The kernels of a mixture of experts for few tokens; `triton.py` says what each does.

T tokens, H hidden size, E experts, A experts of a token, I width of an expert, Z = T · A pairs of a
token and one of its experts, sorted by expert. M rows of a tile, N columns of its product, K the
summed dimension.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segue.kernels.dependent_launch import prefetch, signal, wait
from segue.kernels.mixed_experts.triton_weights import start_product, weight_sum
from segue.kernels.product.triton_tile import store_tile, weight_rows


@triton.jit
def _tile(
    program,
    num_shared,
    num_blocks,
    shared_blocks,
    num_tokens,
    tile_expert_ptr,
    tile_first_ptr,
    tile_stop_ptr,
    num_tiles_ptr,
    BLOCK_M: tl.constexpr,
):
    """Of a program: whether its tile is one of the shared expert's, which come first; the expert;
    the block of columns; the first row and where rows end; whether there is no such tile."""
    is_shared = program < num_shared
    place = tl.where(is_shared, program, program - num_shared)
    own_blocks = tl.where(is_shared, shared_blocks, num_blocks)
    tile = place // own_blocks
    # Loaded all at once; the table's entries for a missing tile are not used, nor for a shared one.
    # There are at least as many as tiles of tokens.
    num_tiles = tl.load(num_tiles_ptr)
    expert = tl.where(is_shared, 0, tl.load(tile_expert_ptr + tile)).to(tl.int64)
    first = tl.where(is_shared, tile * BLOCK_M, tl.load(tile_first_ptr + tile))
    stop = tl.where(is_shared, num_tokens, tl.load(tile_stop_ptr + tile))
    # A tile of an expert that another rank has is without rows.
    is_missing = (program >= num_shared) & ((tile >= num_tiles) | (first >= stop))
    return is_shared, expert, place % own_blocks, first, stop, is_missing


@triton.jit(do_not_specialize=["num_tokens"])
def first_kernel(
    x_ptr,
    numbers_ptr,
    scales_ptr,
    row_scales_ptr,
    shared_numbers_ptr,
    shared_scales_ptr,
    shared_row_scales_ptr,
    h_ptr,
    pairs_ptr,
    tile_expert_ptr,
    tile_first_ptr,
    tile_stop_ptr,
    num_tiles_ptr,
    num_tokens,
    hidden_size,
    width,
    shared_width,
    num_scales,
    shared_num_scales,
    A: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    """h = silu(gate(x)) · up(x): [Z, I] in the order of the pairs, then the shared expert's in the
    order of the tokens."""
    shared_blocks = tl.cdiv(shared_width, BLOCK_N // 2)
    num_shared = tl.cdiv(num_tokens, BLOCK_M) * shared_blocks
    start_product(
        shared_numbers_ptr,
        shared_scales_ptr,
        shared_row_scales_ptr,
        num_shared,
        shared_blocks,
        2 * shared_width,
        hidden_size,
        shared_num_scales,
        True,
        BLOCK_N,
        IS_DEPENDENT,
    )
    is_shared, expert, block, first, stop, is_missing = _tile(
        tl.program_id(0),
        num_shared,
        tl.cdiv(width, BLOCK_N // 2),
        shared_blocks,
        num_tokens,
        tile_expert_ptr,
        tile_first_ptr,
        tile_stop_ptr,
        num_tiles_ptr,
        BLOCK_M,
    )
    if is_missing:
        return
    own_width = tl.where(is_shared, shared_width, width)
    rows_M = first + tl.arange(0, BLOCK_M)
    inside_M = rows_M < stop
    pairs_M = tl.load(pairs_ptr + rows_M, mask=inside_M, other=0)
    tokens_M = tl.where(is_shared, rows_M, pairs_M // A).to(tl.int64)
    rows_N, inside_N = weight_rows(block, 2 * own_width, True, BLOCK_N)
    sum_MN = weight_sum(
        x_ptr + tokens_M * hidden_size,
        inside_M,
        is_shared,
        numbers_ptr,
        scales_ptr,
        row_scales_ptr,
        shared_numbers_ptr,
        shared_scales_ptr,
        shared_row_scales_ptr,
        expert * (2 * width) + rows_N,
        inside_N,
        hidden_size,
        tl.where(is_shared, shared_num_scales, num_scales),
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    start = tl.where(is_shared, num_tokens * A * width, 0)
    store_tile(
        h_ptr + start + rows_M * own_width,
        inside_M,
        sum_MN,
        block,
        2 * own_width,
        True,
        BLOCK_M,
        BLOCK_N,
    )


@triton.jit(do_not_specialize=["num_tokens"])
def second_kernel(
    h_ptr,
    numbers_ptr,
    scales_ptr,
    row_scales_ptr,
    shared_numbers_ptr,
    shared_scales_ptr,
    shared_row_scales_ptr,
    y_ptr,
    pairs_ptr,
    tile_expert_ptr,
    tile_first_ptr,
    tile_stop_ptr,
    num_tiles_ptr,
    num_tokens,
    hidden_size,
    width,
    shared_width,
    num_scales,
    shared_num_scales,
    A: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    """y = down(h), with each row stored at its pair's place in [T, A + 1, H]; the shared expert's
    is a token's last."""
    num_blocks = tl.cdiv(hidden_size, BLOCK_N)
    num_shared = tl.cdiv(num_tokens, BLOCK_M) * num_blocks
    start_product(
        shared_numbers_ptr,
        shared_scales_ptr,
        shared_row_scales_ptr,
        num_shared,
        num_blocks,
        hidden_size,
        shared_width,
        shared_num_scales,
        False,
        BLOCK_N,
        IS_DEPENDENT,
    )
    is_shared, expert, block, first, stop, is_missing = _tile(
        tl.program_id(0),
        num_shared,
        num_blocks,
        num_blocks,
        num_tokens,
        tile_expert_ptr,
        tile_first_ptr,
        tile_stop_ptr,
        num_tiles_ptr,
        BLOCK_M,
    )
    if is_missing:
        return
    own_width = tl.where(is_shared, shared_width, width)
    rows_M = first + tl.arange(0, BLOCK_M)
    inside_M = rows_M < stop
    pairs_M = tl.load(pairs_ptr + rows_M, mask=inside_M, other=0)
    places_M = tl.where(is_shared, rows_M * (A + 1) + A, pairs_M + pairs_M // A).to(tl.int64)
    rows_N, inside_N = weight_rows(block, hidden_size, False, BLOCK_N)
    start = tl.where(is_shared, num_tokens * A * width, 0)
    sum_MN = weight_sum(
        h_ptr + start + rows_M * own_width,
        inside_M,
        is_shared,
        numbers_ptr,
        scales_ptr,
        row_scales_ptr,
        shared_numbers_ptr,
        shared_scales_ptr,
        shared_row_scales_ptr,
        expert * hidden_size + rows_N,
        inside_N,
        own_width,
        tl.where(is_shared, shared_num_scales, num_scales),
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    store_tile(
        y_ptr + places_M * hidden_size,
        inside_M,
        sum_MN,
        block,
        hidden_size,
        False,
        BLOCK_M,
        BLOCK_N,
    )


@triton.jit
def sum_kernel(
    y_ptr,
    weights_ptr,
    x_ptr,
    shared_gate_ptr,
    out_ptr,
    hidden_size,
    A: tl.constexpr,
    BLOCK_H: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    """The sum over a token's experts, best first, and the shared one, whose gate each program of
    the token computes again."""
    signal(IS_DEPENDENT)
    prefetch(shared_gate_ptr + tl.arange(0, 1), tl.arange(0, 1) == 0, hidden_size, IS_DEPENDENT)
    wait(IS_DEPENDENT)
    num_blocks = tl.cdiv(hidden_size, BLOCK_H)
    token = (tl.program_id(0) // num_blocks).to(tl.int64)
    block_H = tl.arange(0, BLOCK_H)
    products_H = tl.zeros((BLOCK_H,), tl.float32)
    for first in range(0, hidden_size, BLOCK_H):
        inside_H = first + block_H < hidden_size
        x_H = tl.load(x_ptr + token * hidden_size + first + block_H, mask=inside_H, other=0.0)
        gate_H = tl.load(shared_gate_ptr + first + block_H, mask=inside_H, other=0.0)
        products_H += x_H.to(tl.float32) * gate_H.to(tl.float32)
    gate = tl.sigmoid(tl.sum(products_H, axis=0))
    columns_H = (tl.program_id(0) % num_blocks) * BLOCK_H + block_H
    inside_H = columns_H < hidden_size
    places = y_ptr + token * (A + 1) * hidden_size + columns_H
    sum_H = tl.zeros((BLOCK_H,), tl.float32)
    for rank in tl.static_range(A):
        y_H = tl.load(places + rank * hidden_size, mask=inside_H, other=0.0)
        sum_H += tl.load(weights_ptr + token * A + rank) * y_H.to(tl.float32)
    shared_H = tl.load(places + A * hidden_size, mask=inside_H, other=0.0)
    out_H = sum_H + gate * shared_H.to(tl.float32)
    tl.store(out_ptr + token * hidden_size + columns_H, out_H, mask=inside_H)
