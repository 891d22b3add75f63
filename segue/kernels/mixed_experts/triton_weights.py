"""The weights of a mixture of experts for few tokens: routed ones, and the shared expert's.

M rows of a tile, N columns of its product, K the summed dimension.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segue.kernels.dependent_launch import signal, wait
from segue.kernels.product.triton_tile import plain_sum, weight_rows
from segue.kernels.quantized_product.triton import prefetch_weight, weighted_sum


@triton.jit
def start_product(
    numbers_ptr,
    scales_ptr,
    row_scales_ptr,
    num_shared,
    num_blocks,
    num_outputs,
    num_columns,
    num_scales,
    IS_GATED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    """Starts a kernel. Those of its programs that have a tile of the shared expert ask for its
    weight while earlier kernels run: which experts the others have is not known yet."""
    signal(IS_DEPENDENT)
    rows_N, inside_N = weight_rows(tl.program_id(0) % num_blocks, num_outputs, IS_GATED, BLOCK_N)
    prefetch_weight(
        numbers_ptr,
        scales_ptr,
        row_scales_ptr,
        rows_N,
        inside_N & (tl.program_id(0) < num_shared),
        num_columns,
        num_scales,
        IS_DEPENDENT,
    )
    wait(IS_DEPENDENT)


@triton.jit
def weight_sum(
    x_M_ptr,
    inside_M,
    is_shared,
    numbers_ptr,
    scales_ptr,
    row_scales_ptr,
    shared_numbers_ptr,
    shared_scales_ptr,
    shared_row_scales_ptr,
    rows_N,
    inside_N,
    num_columns,
    num_scales,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """x Wᵀ of a tile with these rows of the routed or the shared weight: plain without scales,
    NVFP4 if its rows have scales, else FP8."""
    numbers_ptr = tl.where(is_shared, shared_numbers_ptr, numbers_ptr)
    if scales_ptr is None:
        sum_MN = plain_sum(
            x_M_ptr,
            inside_M,
            numbers_ptr + rows_N * num_columns,
            inside_N,
            num_columns,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
    else:
        scales_ptr = tl.where(is_shared, shared_scales_ptr, scales_ptr)
        if row_scales_ptr is not None:
            row_scales_ptr = tl.where(is_shared, shared_row_scales_ptr, row_scales_ptr)
        sum_MN = weighted_sum(
            x_M_ptr,
            inside_M,
            numbers_ptr,
            scales_ptr,
            row_scales_ptr,
            rows_N,
            inside_N,
            num_columns,
            num_scales,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
    return sum_MN
