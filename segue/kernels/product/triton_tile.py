"""The columns of a product's tile, however the weight is stored, and the result of its sums.

M rows and N columns of a tile.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def weight_rows(block, num_outputs, IS_GATED: tl.constexpr, BLOCK_N: tl.constexpr):
    """The weight's rows for the columns of a tile, and whether they exist. If gated, columns
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
def store_tile(out_ptr, rows_M, inside_M, sum_MN, block, num_outputs, IS_GATED: tl.constexpr):
    """Stores the sums, gated or not, in rows of the output, in its dtype."""
    BLOCK_M: tl.constexpr = sum_MN.shape[0]
    BLOCK_N: tl.constexpr = sum_MN.shape[1]
    if IS_GATED:
        gate_MC, up_MC = tl.split(tl.reshape(sum_MN, (BLOCK_M, BLOCK_N // 2, 2)))
        out_MC = gate_MC * tl.sigmoid(gate_MC) * up_MC
        columns_C = block * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        num_columns = num_outputs // 2
    else:
        out_MC = sum_MN
        columns_C = block * BLOCK_N + tl.arange(0, BLOCK_N)
        num_columns = num_outputs
    tl.store(
        out_ptr + (rows_M * num_columns)[:, None] + columns_C[None, :],
        out_MC.to(out_ptr.dtype.element_ty),
        mask=inside_M[:, None] & (columns_C < num_columns)[None, :],
    )
