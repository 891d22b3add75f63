"""The sum over a tile of a product, x Wᵀ, for a plain, FP8 or NVFP4 weight.

Codes become numbers in registers. Scales of FP8 multiply a block's product, not its weights. An
NVFP4 weight times the scale of its 16 is exact in bfloat16, and the row's scale multiplies the sum.
So weights are never rounded, unlike the reference's, and results differ from its by less than a
weight's rounding.

M rows and N columns of a tile, in blocks of K columns of the weight, from the first to the last: a
row's sums have one order, whatever the other rows are. Pointers are to the first column of rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segue.kernels.dependent_launch import prefetch


@triton.jit
def weight_sum(
    x_M_ptr,
    inside_M,
    weight,
    outputs_N,
    inside_N,
    num_columns,
    num_scales,
    BLOCK_K: tl.constexpr,
):
    """For rows `outputs` of a weight: pointers to its numbers, scales and scales of rows. It is
    plain without scales, and NVFP4 if its rows have scales."""
    numbers_ptr, scales_ptr, row_scales_ptr = weight
    rows_N = outputs_N.to(tl.int64)
    if scales_ptr is None:
        numbers_N_ptr = numbers_ptr + rows_N * num_columns
        sum_MN = plain_sum(x_M_ptr, inside_M, numbers_N_ptr, inside_N, num_columns, BLOCK_K)
    else:
        scales_N_ptr = scales_ptr + rows_N * num_scales
        if row_scales_ptr is None:
            codes_N = (numbers_ptr + rows_N * num_columns, scales_N_ptr, inside_N)
            sum_MN = fp8_sum(x_M_ptr, inside_M, *codes_N, num_columns, num_scales, BLOCK_K)
        else:
            codes_N = (numbers_ptr + rows_N * (num_columns // 2), scales_N_ptr, inside_N)
            sum_MN = nvfp4_sum(x_M_ptr, inside_M, *codes_N, num_columns, BLOCK_K)
            sum_MN *= tl.load(row_scales_ptr + rows_N, mask=inside_N, other=0.0)[None, :]
    return sum_MN


@triton.jit
def prefetch_weight(
    weight, outputs_N, inside_N, num_columns, num_scales, IS_DEPENDENT: tl.constexpr
):
    """Asks for the first columns of rows of a weight."""
    numbers_ptr, scales_ptr, row_scales_ptr = weight
    rows_N = outputs_N.to(tl.int64)
    row_numbers = num_columns if row_scales_ptr is None else num_columns // 2
    prefetch(numbers_ptr + rows_N * row_numbers, inside_N, row_numbers, IS_DEPENDENT)
    if scales_ptr is not None:
        prefetch(scales_ptr + rows_N * num_scales, inside_N, num_scales, IS_DEPENDENT)
    if row_scales_ptr is not None:
        prefetch(row_scales_ptr + rows_N, inside_N, 1, IS_DEPENDENT)


@triton.jit
def plain_sum(x_M_ptr, inside_M, weight_N_ptr, inside_N, num_columns, BLOCK_K: tl.constexpr):
    depths_K = tl.arange(0, BLOCK_K)
    sum_MN = tl.zeros((inside_M.shape[0], inside_N.shape[0]), tl.float32)
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
def fp8_sum(
    x_M_ptr,
    inside_M,
    codes_N_ptr,
    scales_N_ptr,
    inside_N,
    num_columns,
    num_scales,
    BLOCK_K: tl.constexpr,
):
    """BLOCK_K columns share a scale."""
    depths_K = tl.arange(0, BLOCK_K)
    sum_MN = tl.zeros((inside_M.shape[0], inside_N.shape[0]), tl.float32)
    for block in range(tl.cdiv(num_columns, BLOCK_K)):
        columns_K = block * BLOCK_K + depths_K
        inside_K = columns_K < num_columns
        x_MK = tl.load(
            x_M_ptr[:, None] + columns_K[None, :],
            mask=inside_M[:, None] & inside_K[None, :],
            other=0.0,
        )
        codes_KN = tl.load(
            codes_N_ptr[None, :] + columns_K[:, None],
            mask=inside_N[None, :] & inside_K[:, None],
            other=0,
        )
        scales_N = tl.load(
            scales_N_ptr + tl.minimum(block, num_scales - 1), mask=inside_N, other=0.0
        )
        weight_KN = codes_KN.to(tl.float8e4nv, bitcast=True).to(x_MK.dtype)
        product_MN = tl.dot(x_MK, weight_KN, input_precision="ieee")
        sum_MN += product_MN * scales_N[None, :]
    return sum_MN


@triton.jit
def e2m1(codes):
    """The numbers of four-bit codes, in float32: a sign, two bits of exponent, one of mantissa."""
    magnitudes = codes & 7
    # Exponent 0 has no leading one: its only number but 0 is a half, the float with exponent 126.
    bits = tl.where(magnitudes > 1, magnitudes + 252, magnitudes * 252) << 22
    signs = (codes & 8) << 28
    return (bits | signs).to(tl.float32, bitcast=True)


@triton.jit
def nvfp4_sum(
    x_M_ptr, inside_M, codes_N_ptr, scales_N_ptr, inside_N, num_columns, BLOCK_K: tl.constexpr
):
    """Without the rows' scales. A byte has an even column in its lower half and the next one in its
    upper half, so there is a product for each half."""
    depths_L = tl.arange(0, BLOCK_K // 2)
    sum_MN = tl.zeros((inside_M.shape[0], inside_N.shape[0]), tl.float32)
    for first in range(0, num_columns // 2, BLOCK_K // 2):
        bytes_L = first + depths_L
        inside_L = bytes_L < num_columns // 2
        inside_LN = inside_N[None, :] & inside_L[:, None]
        inside_ML = inside_M[:, None] & inside_L[None, :]
        even_ML = tl.load(x_M_ptr[:, None] + 2 * bytes_L[None, :], mask=inside_ML, other=0.0)
        odd_ML = tl.load(x_M_ptr[:, None] + 2 * bytes_L[None, :] + 1, mask=inside_ML, other=0.0)
        codes_LN = tl.load(codes_N_ptr[None, :] + bytes_L[:, None], mask=inside_LN, other=0)
        scales_LN = tl.load(
            scales_N_ptr[None, :] + bytes_L[:, None] // 8, mask=inside_LN, other=0
        ).to(tl.float8e4nv, bitcast=True)
        scales_LN = scales_LN.to(tl.float32)
        wide_LN = codes_LN.to(tl.int32)
        low_LN = (e2m1(wide_LN & 15) * scales_LN).to(even_ML.dtype)
        high_LN = (e2m1(wide_LN >> 4) * scales_LN).to(even_ML.dtype)
        sum_MN = tl.dot(even_ML, low_LN, sum_MN, input_precision="ieee")
        sum_MN = tl.dot(odd_ML, high_LN, sum_MN, input_precision="ieee")
    return sum_MN
