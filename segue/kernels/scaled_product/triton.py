"""Products of many rows with quantised weights and inputs in Triton.

Bound by tensor cores: a program computes a wide tile, and neighbouring programs share rows of x and
of the weight in the second cache. T rows, K inputs, N outputs, B groups of a row.
"""

from __future__ import annotations

from functools import partial

import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.moe.triton_experts import ExpertsProduct, through_experts
from segue.kernels.product.reference import Epilogue, Stored
from segue.kernels.product.tiling import Tile
from segue.kernels.product.triton import new_output, parts_of
from segue.kernels.product.triton_tile import store_tile, weight_rows
from segue.kernels.quantized_product.reference import FP8_COLUMNS, Format, format_of
from segue.kernels.scaled_product.reference import nvfp4_scale
from segue.kernels.scaled_product.triton_codes import fp8_codes, nvfp4_codes
from segue.kernels.scaled_product.triton_sum import scaled_sum

ROWS = 128
TILES = {Format.FP8: Tile(128, FP8_COLUMNS, 8, 4), Format.NVFP4: Tile(128, 256, 8, 4)}
GROUP_ROWS = 32
"""Tiles of rows that are computed for some columns before further columns: with K = 4,096 their x
takes 16 MiB in FP8, which stays in the second cache."""


@triton.jit
def tile_of_program(num_rows, num_outputs, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EACH):
    """The tile's number among rows and among columns: `EACH` tiles of rows go through all columns
    together."""
    num_row_tiles, num_column_tiles = tl.cdiv(num_rows, BLOCK_M), tl.cdiv(num_outputs, BLOCK_N)
    first = tl.program_id(0) // (EACH * num_column_tiles) * EACH
    place = tl.program_id(0) % (EACH * num_column_tiles)
    together = tl.minimum(num_row_tiles - first, EACH)
    return first + place % together, place // together


@triton.jit(do_not_specialize=["num_rows"])
def scaled_product_kernel(
    x_ptr,
    x_scales_ptr,
    input_scale_ptr,
    numbers_ptr,
    scales_ptr,
    row_scales_ptr,
    out_ptr,
    num_rows,
    num_outputs,
    x_columns,
    num_scales,
    IS_GATED: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    row_tile, column_tile = tile_of_program(num_rows, num_outputs, BLOCK_M, BLOCK_N, GROUP_ROWS)
    rows_M = (row_tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    inside_M = rows_M < num_rows
    outputs_N, inside_N = weight_rows(column_tile, num_outputs, IS_GATED, BLOCK_N)
    x, weight = (x_ptr, x_scales_ptr, input_scale_ptr), (numbers_ptr, scales_ptr, row_scales_ptr)
    sum_MN = scaled_sum(
        x, rows_M, inside_M, weight, outputs_N, inside_N, x_columns, num_scales, BLOCK_K
    )
    store_tile(out_ptr, rows_M, inside_M, sum_MN, column_tile, num_outputs, IS_GATED)


def quantized(
    x_TK: Tensor, stored: Stored, input_scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes and scales of x, as the weight's format has them, and the scale that NVFP4's have."""
    if format_of(stored) is Format.NVFP4:
        return *nvfp4_codes(x_TK, nvfp4_scale(input_scale)), input_scale
    return *fp8_codes(x_TK, stored[1].shape[-1], input_scale), None


def scaled_product(
    x_TK: Tensor,
    stored: Stored,
    input_scale: Tensor | None = None,
    epilogue: Epilogue = Epilogue.NONE,
) -> Tensor:
    """As the reference's."""
    num_rows = len(x_TK)
    codes, scales_NB, *row_scales = stored
    num_outputs, tile = len(codes), TILES[format_of(stored)]
    out = new_output(x_TK, num_outputs, epilogue)
    programs = triton.cdiv(num_rows, ROWS) * triton.cdiv(num_outputs, tile.columns)
    if programs:
        scaled_product_kernel[(programs,)](
            *quantized(x_TK, stored, input_scale),
            codes,
            scales_NB,
            row_scales[0].contiguous() if row_scales else None,
            out,
            num_rows,
            num_outputs,
            codes.shape[1],
            scales_NB.shape[-1],
            IS_GATED=epilogue is Epilogue.SILU_GATE,
            GROUP_ROWS=GROUP_ROWS,
            **tile.options(ROWS),
        )
    return out


def routed_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up: Stored,
    down: Stored,
    input_scales: tuple[Tensor | None, Tensor | None],
    *,
    experts_per_token: int,
    first_expert: int = 0,
) -> tuple[Tensor, Tensor]:
    """As the reference's. Each token is quantised once, and each pair's h once."""
    products = [
        ExpertsProduct(
            parts_of(stored),
            TILES[format_of(stored)].options(ROWS),
            partial(quantized, stored=stored, input_scale=input_scale),
        )
        for stored, input_scale in zip((gate_up, down), input_scales, strict=True)
    ]
    return through_experts(
        x_TH,
        router_logits_TE,
        *products,
        experts_per_token=experts_per_token,
        first_expert=first_expert,
    )
