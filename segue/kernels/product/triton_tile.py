"""The parts of a product's kernel that any stored form of a weight has: a tile's columns, the sum
over a plain weight, and what becomes of the sums.

A program computes a tile of M rows and N columns, in blocks of K columns of the weight, from the
first to the last. A row's sums therefore have one order, whatever the other rows are.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def weight_rows(block, num_outputs, IS_GATED: tl.constexpr, BLOCK_N: tl.constexpr):
    """The weight's rows for the columns of a tile, and whether there are such. If gated, columns
    alternate between gate and up, so that a product has both values of a channel side by side."""
    columns_N = tl.arange(0, BLOCK_N)
    if IS_GATED:
        width = num_outputs // 2
        channels_N = block * (BLOCK_N // 2) + columns_N // 2
        rows_N = columns_N % 2 * width + channels_N
        inside_N = channels_N < width
    else:
        rows_N = block * BLOCK_N + columns_N
        inside_N = rows_N < num_outputs
    return rows_N, inside_N


@triton.jit
def plain_sum(
    x_M_ptr,
    inside_M,
    weight_N_ptr,
    inside_N,
    num_columns,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """x Wᵀ of a tile; pointers are to the first column of rows."""
    depths_K = tl.arange(0, BLOCK_K)
    sum_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, num_columns, BLOCK_K):
        columns_K = first + depths_K
        inside_K = columns_K < num_columns
        x_MK = tl.load(
            x_M_ptr[:, None] + columns_K[None, :],
            mask=inside_M[:, None] & inside_K[None, :],
            other=0.0,
        )
        weight_KN = tl.load(
            weight_N_ptr[None, :] + columns_K[:, None],
            mask=inside_N[None, :] & inside_K[:, None],
            other=0.0,
        )
        sum_MN = tl.dot(x_MK, weight_KN, sum_MN, input_precision="ieee")
    return sum_MN


@triton.jit
def store_tile(
    out_M_ptr,
    inside_M,
    sum_MN,
    block,
    num_outputs,
    IS_GATED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The sums, gated or not, in the output's dtype; pointers are to the first column of rows."""
    if IS_GATED:
        gate_MC, up_MC = tl.split(tl.reshape(sum_MN, (BLOCK_M, BLOCK_N // 2, 2)))
        gated_MC = gate_MC * tl.sigmoid(gate_MC) * up_MC
        columns_C = block * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        tl.store(
            out_M_ptr[:, None] + columns_C[None, :],
            gated_MC.to(out_M_ptr.dtype.element_ty),
            mask=inside_M[:, None] & (columns_C < num_outputs // 2)[None, :],
        )
    else:
        columns_N = block * BLOCK_N + tl.arange(0, BLOCK_N)
        tl.store(
            out_M_ptr[:, None] + columns_N[None, :],
            sum_MN.to(out_M_ptr.dtype.element_ty),
            mask=inside_M[:, None] & (columns_N < num_outputs)[None, :],
        )
