"""Quantises the inputs of products: numbers become codes with scales, group by group, in one pass.

A program has M rows and K columns of x, which lie in its registers: one group of FP8, or eight of
NVFP4. T rows, K inputs, B groups of a row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.attention_input.triton_heads import e4m3_codes
from segue.kernels.quantized_product.reference import FP8_COLUMNS, NVFP4_COLUMNS
from segue.kernels.scaled_product.reference import (
    LARGEST_E2M1,
    LARGEST_E4M3,
    SMALLEST_INPUT,
    SMALLEST_STEP,
)

ROWS, COLUMNS, NUM_WARPS = 16, 128, 4
"""Of a program: 16 numbers for each thread, in loads of 16 bytes."""
_E4M3 = tl.constexpr(LARGEST_E4M3)
_E2M1 = tl.constexpr(LARGEST_E2M1)
_SMALLEST_INPUT = tl.constexpr(SMALLEST_INPUT)
_SMALLEST_STEP = tl.constexpr(SMALLEST_STEP)


@triton.jit
def block_of_rows(x_ptr, num_rows, num_columns, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """A program's block of columns, its rows and columns, which of them there are, and their
    numbers in float32, 0 beyond the last column."""
    num_column_blocks = tl.cdiv(num_columns, BLOCK_K)
    block = tl.program_id(0) % num_column_blocks
    rows_M = tl.program_id(0) // num_column_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    columns_K = block * BLOCK_K + tl.arange(0, BLOCK_K)
    inside_M = rows_M < num_rows
    x_MK = tl.load(
        x_ptr + rows_M.to(tl.int64)[:, None] * num_columns + columns_K[None, :],
        mask=inside_M[:, None] & (columns_K < num_columns)[None, :],
        other=0.0,
    ).to(tl.float32)
    return block, rows_M.to(tl.int64), inside_M, columns_K, x_MK


@triton.jit(do_not_specialize=["num_rows"])
def fp8_codes_kernel(
    x_ptr,
    input_scale_ptr,
    codes_ptr,
    scales_ptr,
    num_rows,
    num_columns,
    num_scales,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    block, rows_M, inside_M, columns_K, x_MK = block_of_rows(
        x_ptr, num_rows, num_columns, BLOCK_M, BLOCK_K
    )
    if input_scale_ptr is None:
        scales_M = tl.maximum(tl.max(tl.abs(x_MK), 1), _SMALLEST_INPUT) / _E4M3
    else:
        scales_M = tl.zeros((BLOCK_M,), tl.float32) + tl.load(input_scale_ptr)
    tl.store(
        codes_ptr + rows_M[:, None] * num_columns + columns_K[None, :],
        e4m3_codes(x_MK / scales_M[:, None]),
        mask=inside_M[:, None] & (columns_K < num_columns)[None, :],
    )
    tl.store(
        scales_ptr + rows_M * num_scales + block, scales_M, mask=inside_M & (block < num_scales)
    )


@triton.jit
def e2m1_codes(x):
    """The nearest codes of four bits, of two the even one, and the largest beyond it."""
    size = tl.abs(x)
    code = (size > 0.25).to(tl.int32) + (size >= 0.75) + (size > 1.25) + (size >= 1.75)
    code += (size > 2.5).to(tl.int32) + (size >= 3.5) + (size > 5.0)
    return code + 8 * (x < 0)


@triton.jit(do_not_specialize=["num_rows"])
def nvfp4_codes_kernel(
    x_ptr,
    input_scale_ptr,
    codes_ptr,
    scales_ptr,
    num_rows,
    num_columns,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    block, rows_M, inside_M, _, x_MK = block_of_rows(x_ptr, num_rows, num_columns, BLOCK_M, BLOCK_K)
    input_scale = tl.load(input_scale_ptr)
    x_MBC = tl.reshape(x_MK, (BLOCK_M, BLOCK_K // GROUP, GROUP))
    scales_MB = e4m3_codes(tl.max(tl.abs(x_MBC), 2) / (_E2M1 * input_scale))
    steps_MB = scales_MB.to(tl.float8e4nv, bitcast=True).to(tl.float32) * input_scale
    codes_MBC = e2m1_codes(x_MBC * (1 / tl.maximum(steps_MB, _SMALLEST_STEP))[:, :, None])
    low_ML, high_ML = tl.split(tl.reshape(codes_MBC, (BLOCK_M, BLOCK_K // 2, 2)))
    bytes_L = block * (BLOCK_K // 2) + tl.arange(0, BLOCK_K // 2)
    tl.store(
        codes_ptr + rows_M[:, None] * (num_columns // 2) + bytes_L[None, :],
        (low_ML | high_ML << 4).to(tl.uint8),
        mask=inside_M[:, None] & (bytes_L < num_columns // 2)[None, :],
    )
    groups_B = block * (BLOCK_K // GROUP) + tl.arange(0, BLOCK_K // GROUP)
    tl.store(
        scales_ptr + rows_M[:, None] * (num_columns // GROUP) + groups_B[None, :],
        scales_MB,
        mask=inside_M[:, None] & (groups_B < num_columns // GROUP)[None, :],
    )


def fp8_codes(
    x_TK: Tensor, num_scales: int, input_scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As the reference's."""
    num_rows, num_columns = x_TK.shape
    if input_scale is None and num_scales != triton.cdiv(num_columns, FP8_COLUMNS):
        raise ValueError(
            f"inputs of {num_columns} columns get {triton.cdiv(num_columns, FP8_COLUMNS)} scales "
            f"of their own, and the weight has {num_scales} for each row: pass an input_scale"
        )
    codes_TK = x_TK.new_empty(x_TK.shape, dtype=torch.uint8)
    scales_TB = x_TK.new_empty((num_rows, num_scales), dtype=torch.float32)
    fp8_codes_kernel[_grid(x_TK)](
        x_TK.contiguous(),
        input_scale,
        codes_TK,
        scales_TB,
        num_rows,
        num_columns,
        num_scales,
        BLOCK_M=ROWS,
        BLOCK_K=COLUMNS,
        num_warps=NUM_WARPS,
    )
    return codes_TK.view(torch.float8_e4m3fn), scales_TB


def nvfp4_codes(x_TK: Tensor, input_scale: Tensor) -> tuple[Tensor, Tensor]:
    """As the reference's."""
    num_rows, num_columns = x_TK.shape
    codes_TL = x_TK.new_empty((num_rows, num_columns // 2), dtype=torch.uint8)
    scales_TB = x_TK.new_empty((num_rows, num_columns // NVFP4_COLUMNS), dtype=torch.uint8)
    nvfp4_codes_kernel[_grid(x_TK)](
        x_TK.contiguous(),
        input_scale,
        codes_TL,
        scales_TB,
        num_rows,
        num_columns,
        GROUP=NVFP4_COLUMNS,
        BLOCK_M=ROWS,
        BLOCK_K=COLUMNS,
        num_warps=NUM_WARPS,
    )
    return codes_TL, scales_TB.view(torch.float8_e4m3fn)


def _grid(x_TK: Tensor) -> tuple[int]:
    num_rows, num_columns = x_TK.shape
    return (triton.cdiv(num_rows, ROWS) * triton.cdiv(num_columns, COLUMNS),)
