"""The sum over codes of x and of a weight in Triton: a tile of their product.

Tensor cores multiply the codes. FP8's scales multiply a block's product in registers, since each
128 columns have others. On Blackwell the tensor core itself scales NVFP4's groups, by
`tl.dot_scaled`. Neither Triton's interpreter nor Hopper has it: there the same codes and scales
become numbers, which are multiplied.

T rows, K inputs, N outputs, B groups of a row, L = K / 2.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

from segue.kernels.product.triton_sum import e2m1
from segue.kernels.quantized_product.reference import NVFP4_COLUMNS

HAS_DOT_SCALED = tl.constexpr(not knobs.runtime.interpret)
GROUP = tl.constexpr(NVFP4_COLUMNS)


@triton.jit
def loaded_by_all(N_ptr, inside_N):
    """A number for each column of a tile, with a load for each of its 256 threads. Of fewer numbers
    than threads, each thread would load all those of its columns, by 32 or 64 pointers: that
    spilled up to 400 bytes. These go through shared memory."""
    twice: tl.constexpr = (inside_N.shape[0], 2)
    twice_N2 = tl.load(
        tl.broadcast_to(N_ptr[:, None], twice),
        mask=tl.broadcast_to(inside_N[:, None], twice),
        other=0.0,
    )
    return tl.max(twice_N2, 1)


@triton.jit
def fp8_sum(
    x_M_ptr,
    x_scales_M_ptr,
    inside_M,
    codes_N_ptr,
    scales_N_ptr,
    inside_N,
    num_columns,
    num_scales,
    BLOCK_K: tl.constexpr,
):
    """x Wᵀ of a tile; pointers are to the first column of rows. BLOCK_K columns share a scale."""
    depths_K = tl.arange(0, BLOCK_K)
    sum_MN = tl.zeros((inside_M.shape[0], inside_N.shape[0]), tl.float32)
    for block in range(tl.cdiv(num_columns, BLOCK_K)):
        columns_K = block * BLOCK_K + depths_K
        inside_K = columns_K < num_columns
        group = tl.minimum(block, num_scales - 1)
        x_scales_M = tl.load(x_scales_M_ptr + group, mask=inside_M, other=0.0)
        scales_N = loaded_by_all(scales_N_ptr + group, inside_N)
        x_MK = tl.load(
            x_M_ptr[:, None] + columns_K[None, :],
            mask=inside_M[:, None] & inside_K[None, :],
            other=0.0,
        )
        codes_KN = tl.load(
            codes_N_ptr[None, :] + columns_K[:, None],
            mask=inside_N[None, :] & inside_K[:, None],
            other=0.0,
        )
        product_MN = tl.dot(x_MK, codes_KN)
        sum_MN += product_MN * (x_scales_M[:, None] * scales_N[None, :])
    return sum_MN


@triton.jit
def halves(codes_RL, scales_RB):
    """The numbers, in float32, of the lower halves of bytes, and of the upper ones."""
    BYTES: tl.constexpr = GROUP // 2
    NUM_ROWS: tl.constexpr = codes_RL.shape[0]
    NUM_BYTES: tl.constexpr = codes_RL.shape[1]
    scales_RBC = tl.broadcast_to(scales_RB[:, :, None], (NUM_ROWS, NUM_BYTES // BYTES, BYTES))
    scales_RL = tl.reshape(scales_RBC, (NUM_ROWS, NUM_BYTES)).to(tl.float32)
    wide_RL = codes_RL.to(tl.int32)
    return e2m1(wide_RL & 15) * scales_RL, e2m1(wide_RL >> 4) * scales_RL


@triton.jit
def nvfp4_sum(
    x_M_ptr,
    x_scales_M_ptr,
    inside_M,
    codes_N_ptr,
    scales_N_ptr,
    inside_N,
    num_bytes,
    BLOCK_K: tl.constexpr,
):
    """x Wᵀ of a tile without the scales of all inputs and of rows of the weight."""
    depths_L = tl.arange(0, BLOCK_K // 2)
    depths_B = tl.arange(0, BLOCK_K // GROUP)
    sum_MN = tl.zeros((inside_M.shape[0], inside_N.shape[0]), tl.float32)
    for block in range(tl.cdiv(num_bytes, BLOCK_K // 2)):
        bytes_L = block * (BLOCK_K // 2) + depths_L
        groups_B = block * (BLOCK_K // GROUP) + depths_B
        inside_L = bytes_L < num_bytes
        inside_B = groups_B < num_bytes // (GROUP // 2)
        x_ML = tl.load(
            x_M_ptr[:, None] + bytes_L[None, :],
            mask=inside_M[:, None] & inside_L[None, :],
            other=0,
        )
        codes_LN = tl.load(
            codes_N_ptr[None, :] + bytes_L[:, None],
            mask=inside_N[None, :] & inside_L[:, None],
            other=0,
        )
        x_scales_MB = tl.load(
            x_scales_M_ptr[:, None] + groups_B[None, :],
            mask=inside_M[:, None] & inside_B[None, :],
            other=0.0,
        )
        scales_NB = tl.load(
            scales_N_ptr[:, None] + groups_B[None, :],
            mask=inside_N[:, None] & inside_B[None, :],
            other=0.0,
        )
        if HAS_DOT_SCALED:
            sum_MN = tl.dot_scaled(
                x_ML, x_scales_MB, "e2m1", codes_LN, scales_NB, "e2m1", acc=sum_MN
            )
        else:
            even_ML, odd_ML = halves(x_ML, x_scales_MB)
            even_NL, odd_NL = halves(tl.trans(codes_LN), scales_NB)
            sum_MN = tl.dot(even_ML, tl.trans(even_NL), sum_MN, input_precision="ieee")
            sum_MN = tl.dot(odd_ML, tl.trans(odd_NL), sum_MN, input_precision="ieee")
    return sum_MN


@triton.jit
def scaled_sum(
    x,
    rows_M,
    inside_M,
    weight,
    outputs_N,
    inside_N,
    x_columns,
    num_scales,
    BLOCK_K: tl.constexpr,
):
    """x Wᵀ of a tile with rows of x and `outputs` of the weight. Both are pointers: to the codes of
    x, their scales and the scale of all; to the weight's codes, scales and scales of rows, which
    only NVFP4 has. `x_columns`: codes, or bytes with two of them, in a row of either."""
    x_ptr, x_scales_ptr, input_scale_ptr = x
    codes_ptr, scales_ptr, row_scales_ptr = weight
    rows_M, rows_N = rows_M.to(tl.int64), outputs_N.to(tl.int64)
    x_M = (x_ptr + rows_M * x_columns, x_scales_ptr + rows_M * num_scales, inside_M)
    weight_N = (codes_ptr + rows_N * x_columns, scales_ptr + rows_N * num_scales, inside_N)
    if row_scales_ptr is None:
        sum_MN = fp8_sum(*x_M, *weight_N, x_columns, num_scales, BLOCK_K)
    else:
        sum_MN = nvfp4_sum(*x_M, *weight_N, x_columns, BLOCK_K)
        scales_N = tl.load(row_scales_ptr + rows_N, mask=inside_N, other=0.0)
        sum_MN *= (tl.load(input_scale_ptr) * scales_N)[None, :]
    return sum_MN
