"""The kernels of a mixture of experts for few tokens; see `triton.py` beside it.

A weight, of the routed experts or of the shared one, is pointers to numbers, scales and scales of
rows, as in `segue.kernels.product.triton_sum`.

T tokens, H hidden size, E experts, A experts of a token, I width of an expert, Z = T · A pairs of a
token and one of its experts, sorted by expert. M rows of a tile, N columns of its product, K the
summed dimension.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segue.kernels.dependent_launch import prefetch, signal, wait
from segue.kernels.product.triton_sum import prefetch_weight, weight_sum
from segue.kernels.product.triton_tile import store_tile, weight_rows


@triton.jit
def start_product(
    shared,
    num_shared,
    num_blocks,
    num_outputs,
    num_columns,
    num_scales,
    IS_GATED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    """Starts a kernel. Its programs with a tile of the shared expert ask for that weight while
    earlier kernels run: which experts the others have is not known yet."""
    signal(IS_DEPENDENT)
    rows_N, inside_N = weight_rows(tl.program_id(0) % num_blocks, num_outputs, IS_GATED, BLOCK_N)
    inside_N &= tl.program_id(0) < num_shared
    prefetch_weight(shared, rows_N, inside_N, num_columns, num_scales, IS_DEPENDENT)
    wait(IS_DEPENDENT)


@triton.jit
def chosen(is_shared, shared, routed):
    """The pointers of the shared or the routed weight."""
    numbers_ptr = tl.where(is_shared, shared[0], routed[0])
    scales_ptr, row_scales_ptr = routed[1], routed[2]
    if scales_ptr is not None:
        scales_ptr = tl.where(is_shared, shared[1], scales_ptr)
    if row_scales_ptr is not None:
        row_scales_ptr = tl.where(is_shared, shared[2], row_scales_ptr)
    return numbers_ptr, scales_ptr, row_scales_ptr


@triton.jit(do_not_specialize=["num_tokens"])
def tiles_kernel(
    x_ptr,
    numbers_ptr,
    scales_ptr,
    row_scales_ptr,
    shared_numbers_ptr,
    shared_scales_ptr,
    shared_row_scales_ptr,
    out_ptr,
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
    IS_FIRST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    """One of the two products: the shared expert's tiles, then those of the routed ones.

    The first is h = silu(gate(x)) · up(x): [Z, I] in the order of the pairs, then the shared
    expert's in the order of the tokens. The second is y = down(h), with each row stored at its
    pair's place in [T, A + 1, H]; the shared expert's is a token's last."""
    if IS_FIRST:
        num_outputs, shared_outputs, shared_columns = 2 * width, 2 * shared_width, hidden_size
    else:
        num_outputs, shared_outputs, shared_columns = hidden_size, hidden_size, shared_width
    shared_blocks = tl.cdiv(shared_outputs, BLOCK_N)
    num_shared = tl.cdiv(num_tokens, BLOCK_M) * shared_blocks
    shared = (shared_numbers_ptr, shared_scales_ptr, shared_row_scales_ptr)
    sizes = (num_shared, shared_blocks, shared_outputs, shared_columns, shared_num_scales)
    start_product(shared, *sizes, IS_FIRST, BLOCK_N, IS_DEPENDENT)
    is_shared = tl.program_id(0) < num_shared
    place = tl.where(is_shared, tl.program_id(0), tl.program_id(0) - num_shared)
    own_blocks = tl.where(is_shared, shared_blocks, tl.cdiv(num_outputs, BLOCK_N))
    tile, block = place // own_blocks, place % own_blocks
    # Loaded all at once; the table's entries for a missing tile are not used, nor for a shared one.
    # There are at least as many as tiles of tokens.
    num_tiles = tl.load(num_tiles_ptr)
    expert = tl.where(is_shared, 0, tl.load(tile_expert_ptr + tile)).to(tl.int64)
    first = tl.where(is_shared, tile * BLOCK_M, tl.load(tile_first_ptr + tile))
    stop = tl.where(is_shared, num_tokens, tl.load(tile_stop_ptr + tile))
    # A tile of an expert that another rank has is without rows.
    if (tl.program_id(0) >= num_shared) & ((tile >= num_tiles) | (first >= stop)):
        return
    rows_M = first + tl.arange(0, BLOCK_M)
    inside_M = rows_M < stop
    pairs_M = tl.load(pairs_ptr + rows_M, mask=inside_M, other=0)
    own_width = tl.where(is_shared, shared_width, width)
    h_start = tl.where(is_shared, num_tokens * A * width, 0)
    if IS_FIRST:
        from_M = tl.where(is_shared, rows_M, pairs_M // A).to(tl.int64)
        x_M_ptr = x_ptr + from_M * hidden_size
        out_ptr += h_start
        to_M = rows_M
        own_columns, own_outputs = hidden_size, 2 * own_width
    else:
        x_M_ptr = x_ptr + h_start + rows_M * own_width
        to_M = tl.where(is_shared, rows_M * (A + 1) + A, pairs_M + pairs_M // A).to(tl.int64)
        own_columns, own_outputs = own_width, hidden_size
    rows_N, inside_N = weight_rows(block, own_outputs, IS_FIRST, BLOCK_N)
    rows_N += expert * num_outputs
    weight = chosen(is_shared, shared, (numbers_ptr, scales_ptr, row_scales_ptr))
    own_scales = tl.where(is_shared, shared_num_scales, num_scales)
    sum_MN = weight_sum(
        x_M_ptr, inside_M, weight, rows_N, inside_N, own_columns, own_scales, BLOCK_K
    )
    store_tile(out_ptr, to_M, inside_M, sum_MN, block, own_outputs, IS_FIRST)


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
