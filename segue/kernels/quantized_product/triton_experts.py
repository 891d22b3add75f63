"""Experts with quantised weights in Triton.

A weight becomes numbers again for each tile. T tokens, H hidden size, A experts of a token, M rows
of a tile, N columns of its product.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.moe.tiling import tiling_of
from segue.kernels.moe.triton_routing import RoutingPlan
from segue.kernels.moe.triton_tiles import rows_of_tile, through_experts, tile_of_program
from segue.kernels.product.triton_tile import store_tile, weight_rows
from segue.kernels.quantized_product.reference import FP8_COLUMNS
from segue.kernels.quantized_product.triton import (
    COLUMNS,
    NUM_STAGES,
    NUM_WARPS,
    stored,
    weighted_sum,
)

MOST_TILE_ROWS = 32


@triton.jit
def experts_kernel(
    x_ptr,
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
    num_columns,
    num_scales,
    A: tl.constexpr,
    IS_FIRST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    expert, first, stop, block, is_there = tile_of_program(
        tl.cdiv(num_outputs, BLOCK_N), tile_expert_ptr, tile_first_ptr, tile_stop_ptr, num_tiles_ptr
    )
    if not is_there:
        return
    from_M, to_M, inside_M = rows_of_tile(pairs_ptr, first, stop, A, IS_FIRST, BLOCK_M)
    outputs_N, inside_N = weight_rows(block, num_outputs, IS_FIRST, BLOCK_N)
    sum_MN = weighted_sum(
        x_ptr + from_M * num_columns,
        inside_M,
        codes_ptr,
        scales_ptr,
        row_scales_ptr,
        expert * num_outputs + outputs_N,
        inside_N,
        num_columns,
        num_scales,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    out_columns = num_outputs // 2 if IS_FIRST else num_outputs
    store_tile(
        out_ptr + to_M * out_columns,
        inside_M,
        sum_MN,
        block,
        num_outputs,
        IS_FIRST,
        BLOCK_M,
        BLOCK_N,
    )


def routed_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up: Sequence[Tensor],
    down: Sequence[Tensor],
    *,
    experts_per_token: int,
    first_expert: int = 0,
) -> tuple[Tensor, Tensor]:
    """As the reference's."""
    tiling = tiling_of(len(x_TH), router_logits_TE.shape[1], experts_per_token)
    rows = min(tiling.rows, MOST_TILE_ROWS)

    def product(x: Tensor, out: Tensor, plan: RoutingPlan, *, is_first: bool) -> None:
        codes, scales, *row_scales = gate_up if is_first else down
        num_outputs = codes.shape[1]
        experts_kernel[(plan.max_tiles * triton.cdiv(num_outputs, COLUMNS),)](
            x.contiguous(),
            *stored(codes, scales, row_scales[0] if row_scales else None),
            out,
            *plan.tables,
            num_outputs,
            x.shape[1],
            scales.shape[-1],
            A=experts_per_token,
            IS_FIRST=is_first,
            BLOCK_M=rows,
            BLOCK_N=COLUMNS,
            BLOCK_K=FP8_COLUMNS,
            num_warps=NUM_WARPS,
            num_stages=NUM_STAGES,
        )

    num_held, num_rows = gate_up[0].shape[:2]
    return through_experts(
        x_TH,
        router_logits_TE,
        product,
        held=range(first_expert, first_expert + num_held),
        width=num_rows // 2,
        tile_rows=rows,
        experts_per_token=experts_per_token,
    )
