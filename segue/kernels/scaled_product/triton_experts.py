"""Experts with quantised weights and inputs in Triton, for many tokens.

Each token is quantised once, and each pair's h once. T tokens, H hidden size, A experts of a token,
M rows of a tile, N columns of its product.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.moe.triton_routing import RoutingPlan
from segue.kernels.moe.triton_tiles import rows_of_tile, through_experts, tile_of_program
from segue.kernels.product.triton_tile import store_tile, weight_rows
from segue.kernels.quantized_product.reference import format_of
from segue.kernels.scaled_product.reference import Stored
from segue.kernels.scaled_product.triton import ROWS, TILES, options, quantized
from segue.kernels.scaled_product.triton_sum import scaled_sum


@triton.jit
def scaled_experts_kernel(
    x_ptr,
    x_scales_ptr,
    input_scale_ptr,
    codes_ptr,
    scales_ptr,
    row_scales_ptr,
    out_ptr,
    pairs_ptr,
    tile_expert_ptr,
    tile_first_ptr,
    tile_stop_ptr,
    num_tiles_ptr,
    num_outputs,
    num_stored,
    num_scales,
    A: tl.constexpr,
    IS_FIRST: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    expert, first, stop, column_tile, is_there = tile_of_program(
        tl.cdiv(num_outputs, BLOCK_N), tile_expert_ptr, tile_first_ptr, tile_stop_ptr, num_tiles_ptr
    )
    if not is_there:
        return
    from_M, to_M, inside_M = rows_of_tile(pairs_ptr, first, stop, A, IS_FIRST, BLOCK_M)
    outputs_N, inside_N = weight_rows(column_tile, num_outputs, IS_FIRST, BLOCK_N)
    sum_MN = scaled_sum(
        x_ptr,
        x_scales_ptr,
        input_scale_ptr,
        from_M,
        inside_M,
        codes_ptr,
        scales_ptr,
        row_scales_ptr,
        expert * num_outputs + outputs_N,
        inside_N,
        num_stored,
        num_scales,
        GROUP,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    out_columns = num_outputs // 2 if IS_FIRST else num_outputs
    store_tile(
        out_ptr + to_M * out_columns,
        inside_M,
        sum_MN,
        column_tile,
        num_outputs,
        IS_FIRST,
        BLOCK_M,
        BLOCK_N,
    )


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
    """As the reference's."""

    def product(x: Tensor, out: Tensor, plan: RoutingPlan, *, is_first: bool) -> None:
        weight, input_scale = (gate_up if is_first else down), input_scales[not is_first]
        codes, scales, *row_scales = weight
        how, num_outputs = format_of(weight), codes.shape[1]
        scaled_experts_kernel[(plan.max_tiles * triton.cdiv(num_outputs, TILES[how].columns),)](
            *quantized(x, weight, input_scale),
            codes,
            scales,
            row_scales[0] if row_scales else None,
            out,
            *plan.tables,
            num_outputs,
            codes.shape[2],
            scales.shape[-1],
            A=experts_per_token,
            IS_FIRST=is_first,
            **options(how),
        )

    num_held, num_rows = gate_up[0].shape[:2]
    return through_experts(
        x_TH,
        router_logits_TE,
        product,
        held=range(first_expert, first_expert + num_held),
        width=num_rows // 2,
        tile_rows=ROWS,
        experts_per_token=experts_per_token,
    )
