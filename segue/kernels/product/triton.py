"""The product of few rows with a plain weight in Triton; of more rows it is cuBLAS's.

Few rows are bound by reading the weight. A program reads some of the weight's rows, once for all
rows of x. The grid and the order of a sum depend on the weight only, so a row's result has the same
bits alone, beside others and as a draft. T rows, K inputs, N outputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.dependent_launch import prefetch, signal, wait
from segue.kernels.product import reference
from segue.kernels.product.epilogue import Epilogue
from segue.kernels.product.tiling import FEW_ROWS, tile_of, tile_rows
from segue.kernels.product.triton_tile import plain_sum, store_tile, weight_rows


@triton.jit(do_not_specialize=["num_rows"])
def product_kernel(
    x_ptr,
    weight_ptr,
    out_ptr,
    num_rows,
    num_outputs,
    num_columns,
    IS_GATED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    signal(IS_DEPENDENT)
    block = tl.program_id(0)
    rows_M = tl.arange(0, BLOCK_M)
    inside_M = rows_M < num_rows
    outputs_N, inside_N = weight_rows(block, num_outputs, IS_GATED, BLOCK_N)
    weight_N_ptr = weight_ptr + outputs_N.to(tl.int64) * num_columns
    prefetch(weight_N_ptr, inside_N, num_columns, IS_DEPENDENT)
    wait(IS_DEPENDENT)
    sum_MN = plain_sum(
        x_ptr + rows_M * num_columns,
        inside_M,
        weight_N_ptr,
        inside_N,
        num_columns,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    out_columns = num_outputs // 2 if IS_GATED else num_outputs
    store_tile(
        out_ptr + rows_M * out_columns,
        inside_M,
        sum_MN,
        block,
        num_outputs,
        IS_GATED,
        BLOCK_M,
        BLOCK_N,
    )


def product(x_TK: Tensor, weight_NK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
    """As the reference's."""
    num_rows, num_columns = x_TK.shape
    num_outputs = len(weight_NK)
    if not 0 < num_rows <= FEW_ROWS or not weight_NK.is_contiguous() or not num_outputs:
        return reference.product(x_TK, weight_NK, epilogue)
    tile = tile_of(num_outputs)
    out = new_output(x_TK, num_outputs, epilogue)
    product_kernel[(triton.cdiv(num_outputs, tile.columns),)](
        x_TK.contiguous(),
        weight_NK,
        out,
        num_rows,
        num_outputs,
        num_columns,
        IS_GATED=epilogue is Epilogue.SILU_GATE,
        BLOCK_M=tile_rows(num_rows),
        BLOCK_N=tile.columns,
        # The same bytes of shared memory in float32 as in bfloat16.
        BLOCK_K=tile.depth * 2 // x_TK.element_size(),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **dependent_launch.options(x_TK.device),
    )
    return out


def new_output(x_TK: Tensor, num_outputs: int, epilogue: Epilogue) -> Tensor:
    """Raises ValueError if a weight with as many outputs has no two halves to gate."""
    dtype = torch.float32 if epilogue is Epilogue.FLOAT32 else x_TK.dtype
    if epilogue is Epilogue.SILU_GATE:
        if num_outputs % 2:
            raise ValueError(
                f"a gated product takes as many gates as ups, got a weight of {num_outputs} rows"
            )
        num_outputs //= 2
    return x_TK.new_empty((len(x_TK), num_outputs), dtype=dtype)
