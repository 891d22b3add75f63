"""Products with quantised weights in Triton: codes become numbers in registers.

A program computes a tile of M rows and N columns and reads the weight once, in blocks of K columns.
Scales of FP8 multiply a block's product, not its weights. An NVFP4 weight times the scale of its 16
is exact in bfloat16, and the row's scale multiplies the sum. So weights are never rounded, unlike
the reference's, and results differ from its by less than a weight's rounding.

T rows, K inputs, N outputs, B scales of a row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.dependent_launch import prefetch, signal, wait
from segue.kernels.product.epilogue import Epilogue
from segue.kernels.product.triton import new_output
from segue.kernels.product.triton_tile import store_tile, weight_rows
from segue.kernels.quantized_product import reference
from segue.kernels.quantized_product.reference import FP8_COLUMNS

MOST_ROWS = 128
"""Beyond, converting the weight once costs less than converting it for each tile of rows."""
ROWS, COLUMNS, NUM_WARPS, NUM_STAGES = 16, 32, 4, 4
"""Of a tile: narrow, so that the whole chip reads a small matrix."""


@triton.jit
def fp8_sum(
    x_M_ptr,
    inside_M,
    codes_N_ptr,
    scales_N_ptr,
    inside_N,
    num_columns,
    num_scales,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """x Wᵀ of a tile; pointers are to the first column of rows. BLOCK_K columns share a scale."""
    depths_K = tl.arange(0, BLOCK_K)
    sum_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
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
    x_M_ptr,
    inside_M,
    codes_N_ptr,
    scales_N_ptr,
    inside_N,
    num_columns,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """x Wᵀ of a tile without the rows' scales. A byte has an even column in its lower half and the
    next one in its upper half, so there is a product for each half."""
    depths_L = tl.arange(0, BLOCK_K // 2)
    sum_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
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


@triton.jit
def weighted_sum(
    x_M_ptr,
    inside_M,
    codes_ptr,
    scales_ptr,
    row_scales_ptr,
    outputs_N,
    inside_N,
    num_columns,
    num_scales,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """x Wᵀ of a tile with rows `outputs` of the weight, which is NVFP4 if its rows have scales."""
    rows_N = outputs_N.to(tl.int64)
    scales_N_ptr = scales_ptr + rows_N * num_scales
    if row_scales_ptr is None:
        sum_MN = fp8_sum(
            x_M_ptr,
            inside_M,
            codes_ptr + rows_N * num_columns,
            scales_N_ptr,
            inside_N,
            num_columns,
            num_scales,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
    else:
        sum_MN = nvfp4_sum(
            x_M_ptr,
            inside_M,
            codes_ptr + rows_N * (num_columns // 2),
            scales_N_ptr,
            inside_N,
            num_columns,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
        sum_MN *= tl.load(row_scales_ptr + rows_N, mask=inside_N, other=0.0)[None, :]
    return sum_MN


@triton.jit
def prefetch_weight(
    numbers_ptr,
    scales_ptr,
    row_scales_ptr,
    outputs_N,
    inside_N,
    num_columns,
    num_scales,
    IS_DEPENDENT: tl.constexpr,
):
    """Asks for the first columns of rows of a weight, which is plain without scales."""
    rows_N = outputs_N.to(tl.int64)
    row_numbers = num_columns if row_scales_ptr is None else num_columns // 2
    prefetch(numbers_ptr + rows_N * row_numbers, inside_N, row_numbers, IS_DEPENDENT)
    if scales_ptr is not None:
        prefetch(scales_ptr + rows_N * num_scales, inside_N, num_scales, IS_DEPENDENT)
    if row_scales_ptr is not None:
        prefetch(row_scales_ptr + rows_N, inside_N, 1, IS_DEPENDENT)


@triton.jit(do_not_specialize=["num_rows"])
def product_kernel(
    x_ptr,
    codes_ptr,
    scales_ptr,
    row_scales_ptr,
    out_ptr,
    num_rows,
    num_outputs,
    num_columns,
    num_scales,
    IS_GATED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    signal(IS_DEPENDENT)
    num_column_blocks = tl.cdiv(num_outputs, BLOCK_N)
    block = tl.program_id(0) % num_column_blocks
    rows_M = tl.program_id(0) // num_column_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    inside_M = rows_M < num_rows
    outputs_N, inside_N = weight_rows(block, num_outputs, IS_GATED, BLOCK_N)
    prefetch_weight(
        codes_ptr,
        scales_ptr,
        row_scales_ptr,
        outputs_N,
        inside_N,
        num_columns,
        num_scales,
        IS_DEPENDENT,
    )
    wait(IS_DEPENDENT)
    sum_MN = weighted_sum(
        x_ptr + rows_M.to(tl.int64) * num_columns,
        inside_M,
        codes_ptr,
        scales_ptr,
        row_scales_ptr,
        outputs_N,
        inside_N,
        num_columns,
        num_scales,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    out_columns = num_outputs // 2 if IS_GATED else num_outputs
    store_tile(
        out_ptr + rows_M.to(tl.int64) * out_columns,
        inside_M,
        sum_MN,
        block,
        num_outputs,
        IS_GATED,
        BLOCK_M,
        BLOCK_N,
    )


def fp8_product(
    x_TK: Tensor, codes_NK: Tensor, scales_NB: Tensor, epilogue: Epilogue = Epilogue.NONE
) -> Tensor:
    """As the reference's."""
    if len(x_TK) > MOST_ROWS:
        return reference.fp8_product(x_TK, codes_NK, scales_NB, epilogue)
    return _product(x_TK, codes_NK, scales_NB, None, epilogue)


def nvfp4_product(
    x_TK: Tensor,
    codes_NL: Tensor,
    scales_NB: Tensor,
    row_scales_N: Tensor,
    epilogue: Epilogue = Epilogue.NONE,
) -> Tensor:
    """As the reference's."""
    if len(x_TK) > MOST_ROWS:
        return reference.nvfp4_product(x_TK, codes_NL, scales_NB, row_scales_N, epilogue)
    return _product(x_TK, codes_NL, scales_NB, row_scales_N, epilogue)


def _product(
    x_TK: Tensor,
    codes: Tensor,
    scales_NB: Tensor,
    row_scales_N: Tensor | None,
    epilogue: Epilogue,
) -> Tensor:
    num_rows, num_columns = x_TK.shape
    num_outputs = len(codes)
    out = new_output(x_TK, num_outputs, epilogue)
    programs = triton.cdiv(num_rows, ROWS) * triton.cdiv(num_outputs, COLUMNS)
    if programs:
        product_kernel[(programs,)](
            x_TK.contiguous(),
            *stored(codes, scales_NB, row_scales_N),
            out,
            num_rows,
            num_outputs,
            num_columns,
            scales_NB.shape[-1],
            IS_GATED=epilogue is Epilogue.SILU_GATE,
            BLOCK_M=ROWS,
            BLOCK_N=COLUMNS,
            BLOCK_K=FP8_COLUMNS,
            num_warps=NUM_WARPS,
            num_stages=NUM_STAGES,
            **dependent_launch.options(x_TK.device),
        )
    return out


def stored(
    codes: Tensor, scales: Tensor, row_scales: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A weight's tensors, those of 8 bits as bytes: the kernel says what they mean."""
    if row_scales is not None:
        scales = scales.view(torch.uint8)
    return codes.view(torch.uint8), scales, row_scales
