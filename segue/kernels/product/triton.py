"""The product of few rows with a weight in Triton. cuBLAS multiplies more rows with a plain weight.

Few rows are bound by reading the weight. A program computes a tile of M rows and N columns, and
reads some of the weight's rows once for its rows of x. The tile and the order of a sum depend on
the weight only, so a row's result has the same bits alone, beside others and as a draft.

T rows, K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.dependent_launch import signal, wait
from segue.kernels.product import reference
from segue.kernels.product.reference import Epilogue, Stored
from segue.kernels.product.tiling import FEW_ROWS, tile_of, tile_rows
from segue.kernels.product.triton_sum import prefetch_weight, weight_sum
from segue.kernels.product.triton_tile import store_tile, weight_rows

Weight: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]
"""Numbers, scales and scales of rows, as kernels take them. Without scales a weight is plain, with
scales of rows NVFP4."""


@triton.jit(do_not_specialize=["num_rows"])
def product_kernel(
    x_ptr,
    numbers_ptr,
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
    block, rows_M = tl.program_id(0), tl.arange(0, BLOCK_M)
    if scales_ptr is not None:
        # Codes have more than one tile of rows.
        num_blocks = tl.cdiv(num_outputs, BLOCK_N)
        block, rows_M = block % num_blocks, rows_M + block // num_blocks * BLOCK_M
    inside_M = rows_M < num_rows
    outputs_N, inside_N = weight_rows(block, num_outputs, IS_GATED, BLOCK_N)
    weight = (numbers_ptr, scales_ptr, row_scales_ptr)
    prefetch_weight(weight, outputs_N, inside_N, num_columns, num_scales, IS_DEPENDENT)
    wait(IS_DEPENDENT)
    # Rows are few: offsets fit into 32 bits.
    x_M_ptr = x_ptr + rows_M * num_columns
    sum_MN = weight_sum(
        x_M_ptr, inside_M, weight, outputs_N, inside_N, num_columns, num_scales, BLOCK_K
    )
    store_tile(out_ptr, rows_M, inside_M, sum_MN, block, num_outputs, IS_GATED)


def product(x_TK: Tensor, weight_NK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
    """As the reference's."""
    num_rows, num_outputs = len(x_TK), len(weight_NK)
    if not 0 < num_rows <= FEW_ROWS or not weight_NK.is_contiguous() or not num_outputs:
        return reference.product(x_TK, weight_NK, epilogue)
    options = tile_of(num_outputs).options(tile_rows(num_rows), x_TK.element_size())
    return product_by_tiles(x_TK, (weight_NK, None, None), epilogue, options)


def product_by_tiles(
    x_TK: Tensor, weight: Weight, epilogue: Epilogue, options: Mapping[str, int]
) -> Tensor:
    """x Wᵀ, finished."""
    num_rows, num_columns = x_TK.shape
    num_outputs = len(weight[0])
    out = new_output(x_TK, num_outputs, epilogue)
    tiles_of_rows = triton.cdiv(num_rows, options["BLOCK_M"])
    if out.numel():
        product_kernel[(tiles_of_rows * triton.cdiv(num_outputs, options["BLOCK_N"]),)](
            x_TK.contiguous(),
            *weight,
            out,
            num_rows,
            num_outputs,
            num_columns,
            scales_per_row(weight),
            IS_GATED=epilogue is Epilogue.SILU_GATE,
            **options,
            **dependent_launch.options(x_TK.device),
        )
    return out


def new_output(x_TK: Tensor, num_outputs: int, epilogue: Epilogue) -> Tensor:
    """Raises ValueError if a weight with this number of outputs has no two halves to gate."""
    dtype = torch.float32 if epilogue is Epilogue.FLOAT32 else x_TK.dtype
    if epilogue is Epilogue.SILU_GATE:
        if num_outputs % 2:
            raise ValueError(
                f"a gated product takes as many gates as ups, got a weight of {num_outputs} rows"
            )
        num_outputs //= 2
    return x_TK.new_empty((len(x_TK), num_outputs), dtype=dtype)


def pointers(stored: Stored) -> Weight:
    """Codes and scales of 8 bits are bytes, which kernels interpret."""
    numbers, scales, row_scales = parts_of(stored)
    if scales is None:
        return numbers, None, None
    if row_scales is not None:
        scales = scales.view(torch.uint8)
    return numbers.view(torch.uint8), scales, row_scales


def parts_of(stored: Stored) -> Weight:
    numbers, *scales = stored
    return numbers, scales[0] if scales else None, scales[1] if len(scales) > 1 else None


def scales_per_row(weight: Weight) -> int:
    return 0 if weight[1] is None else weight[1].shape[-1]
