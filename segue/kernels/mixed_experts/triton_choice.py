"""The first product of a mixture of experts for very few tokens, which routes them too.

A tile has one token, so nothing must be sorted: each program chooses its token's experts itself. It
takes less time than another launch, and few tokens share few experts.

T tokens, H hidden size, E experts, A experts of a token, I width of an expert. M rows of a tile, of
which one is used, N columns of its product, K the summed dimension.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segue.kernels.mixed_experts.triton_kernels import chosen, start_product
from segue.kernels.moe.triton_choice import ranked
from segue.kernels.product.triton_sum import weight_sum
from segue.kernels.product.triton_tile import store_tile, weight_rows


@triton.jit
def _store_plan(
    weights_ptr, tables, token, ranks_1E, weights_1A, num_tokens, first_expert, num_held, A
):
    """Stores a token's weights and the tables of the second product: a tile for each pair, in the
    order of the tokens, without rows if another rank has the expert."""
    pairs_ptr, tile_expert_ptr, tile_first_ptr, tile_stop_ptr, num_tiles_ptr = tables
    experts_E = tl.arange(0, ranks_1E.shape[1])
    ranks_A = tl.arange(0, weights_1A.shape[1])
    inside_A = ranks_A < A
    is_chosen_AE = ranks_1E == 1 + ranks_A[:, None]
    experts_A = tl.sum(tl.where(is_chosen_AE, experts_E[None, :], 0), axis=1) - first_expert
    is_held_A = (experts_A >= 0) & (experts_A < num_held)
    pairs_A = token * A + ranks_A
    tl.store(weights_ptr + pairs_A[None, :], weights_1A, mask=inside_A[None, :])
    tl.store(pairs_ptr + pairs_A, pairs_A, mask=inside_A)
    tl.store(tile_expert_ptr + pairs_A, tl.where(is_held_A, experts_A, 0), mask=inside_A)
    tl.store(tile_first_ptr + pairs_A, pairs_A, mask=inside_A)
    tl.store(tile_stop_ptr + pairs_A, pairs_A + is_held_A.to(tl.int32), mask=inside_A)
    if token == 0:
        tl.store(num_tiles_ptr, num_tokens * A)


@triton.jit(do_not_specialize=["num_tokens"])
def choose_first_kernel(
    logits_ptr,
    x_ptr,
    numbers_ptr,
    scales_ptr,
    row_scales_ptr,
    shared_numbers_ptr,
    shared_scales_ptr,
    shared_row_scales_ptr,
    out_ptr,
    weights_ptr,
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
    num_experts,
    first_expert,
    num_held,
    A: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    """As the first product of `tiles_kernel`, with pairs in the order of the tokens; also their
    weights and tiles."""
    num_blocks = tl.cdiv(width, BLOCK_N // 2)
    shared_blocks = tl.cdiv(shared_width, BLOCK_N // 2)
    num_shared = num_tokens * shared_blocks
    shared = (shared_numbers_ptr, shared_scales_ptr, shared_row_scales_ptr)
    sizes = (num_shared, shared_blocks, 2 * shared_width, hidden_size, shared_num_scales)
    start_product(shared, *sizes, True, BLOCK_N, IS_DEPENDENT)
    is_shared = tl.program_id(0) < num_shared
    place = tl.where(is_shared, tl.program_id(0), tl.program_id(0) - num_shared)
    own_blocks = tl.where(is_shared, shared_blocks, num_blocks)
    own_width = tl.where(is_shared, shared_width, width)
    row, block = place // own_blocks, place % own_blocks
    token = tl.where(is_shared, row, row // A)
    rank = row % A
    ranks_1E, weights_1A = ranked(
        logits_ptr, token + tl.arange(0, 1), num_tokens, num_experts, A, BLOCK_A, 1, BLOCK_E
    )
    if (rank == 0) & (block == 0) & (tl.program_id(0) >= num_shared):
        tables = (pairs_ptr, tile_expert_ptr, tile_first_ptr, tile_stop_ptr, num_tiles_ptr)
        _store_plan(
            weights_ptr, tables, token, ranks_1E, weights_1A, num_tokens, first_expert, num_held, A
        )
    experts_1E = tl.arange(0, BLOCK_E)[None, :]
    own = tl.sum(tl.sum(tl.where(ranks_1E == 1 + rank, experts_1E, 0), axis=1), axis=0)
    expert = tl.where(is_shared, 0, own - first_expert)
    if (expert < 0) | (expert >= num_held):
        return
    rows_M = tl.arange(0, BLOCK_M)
    inside_M = rows_M < 1
    rows_N, inside_N = weight_rows(block, 2 * own_width, True, BLOCK_N)
    weight = chosen(is_shared, shared, (numbers_ptr, scales_ptr, row_scales_ptr))
    rows_N += expert.to(tl.int64) * (2 * width)
    own_scales = tl.where(is_shared, shared_num_scales, num_scales)
    x_M_ptr = x_ptr + token.to(tl.int64) * hidden_size + rows_M * hidden_size
    sum_MN = weight_sum(
        x_M_ptr, inside_M, weight, rows_N, inside_N, hidden_size, own_scales, BLOCK_K
    )
    out_ptr += tl.where(is_shared, num_tokens * A * width, 0)
    store_tile(out_ptr, row + rows_M, inside_M, sum_MN, block, 2 * own_width, True)
