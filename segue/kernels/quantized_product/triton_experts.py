"""Experts with quantised weights in Triton: two products over tiles of one expert each.

As in `segue.kernels.moe.triton`, rows of a tile are gathered from tokens and scattered to their
places. The gate is applied between the products, by a kernel of its own.

T tokens, H hidden size, E experts, A experts of a token, I width of an expert, J = 2 I, Z = T · A
pairs, sorted by expert. M rows of a tile, N columns of its product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.gates import silu_gate
from segue.kernels.moe.tiling import tiling_of
from segue.kernels.moe.triton_routing import RoutingPlan, route
from segue.kernels.quantized_product.reference import FP8_COLUMNS
from segue.kernels.quantized_product.triton import (
    COLUMNS,
    NUM_STAGES,
    NUM_WARPS,
    stored,
    weighted_sum,
)

MOST_TILE_ROWS = 32
"""Of a tile; a weight is converted again for each tile."""


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
    """The first product reads tokens [T, H] and writes pairs in their order [Z, J]; the second
    reads these and writes each to its place in [T, A, H]."""
    num_column_blocks = tl.cdiv(num_outputs, BLOCK_N)
    tile = tl.program_id(0) // num_column_blocks
    outputs_N = tl.program_id(0) % num_column_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_N = outputs_N < num_outputs
    # Loaded all at once; the table's entries for a missing tile are not used.
    num_tiles = tl.load(num_tiles_ptr)
    expert = tl.load(tile_expert_ptr + tile).to(tl.int64)
    first = tl.load(tile_first_ptr + tile)
    stop = tl.load(tile_stop_ptr + tile)
    if tile >= num_tiles:
        return
    rows_M = first + tl.arange(0, BLOCK_M)
    inside_M = rows_M < stop
    pairs_M = tl.load(pairs_ptr + rows_M, mask=inside_M, other=0).to(tl.int64)
    if IS_FIRST:
        from_M, to_M = pairs_M // A, rows_M.to(tl.int64)
    else:
        from_M, to_M = rows_M.to(tl.int64), pairs_M
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
    tl.store(
        out_ptr + to_M[:, None] * num_outputs + outputs_N[None, :],
        sum_MN.to(out_ptr.dtype.element_ty),
        mask=inside_M[:, None] & inside_N[None, :],
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
    num_tokens, hidden_size = x_TH.shape
    num_held, num_rows = gate_up[0].shape[:2]
    num_experts = router_logits_TE.shape[1]
    new = x_TH.new_zeros if num_held < num_experts else x_TH.new_empty
    y_TAH = new((num_tokens, experts_per_token, hidden_size))
    if num_tokens == 0:
        return y_TAH, x_TH.new_empty((0, experts_per_token), dtype=torch.float32)
    rows = min(tiling_of(num_tokens, num_experts, experts_per_token).rows, MOST_TILE_ROWS)
    weights_TA, plan = route(router_logits_TE, experts_per_token, rows)
    if num_held < num_experts:
        plan = plan.of_experts(range(first_expert, first_expert + num_held))
    both_ZJ = x_TH.new_empty((num_tokens * experts_per_token, num_rows))
    _product(x_TH, gate_up, both_ZJ, plan, experts_per_token, rows, is_first=True)
    _product(silu_gate(both_ZJ), down, y_TAH, plan, experts_per_token, rows, is_first=False)
    return y_TAH, weights_TA


def _product(
    x: Tensor,
    weight: Sequence[Tensor],
    out: Tensor,
    plan: RoutingPlan,
    experts_per_token: int,
    rows: int,
    *,
    is_first: bool,
) -> None:
    codes, scales, *row_scales = weight
    num_outputs = codes.shape[1]
    experts_kernel[(plan.max_tiles * triton.cdiv(num_outputs, COLUMNS),)](
        x.contiguous(),
        *stored(codes, scales, row_scales[0] if row_scales else None),
        out,
        plan.pairs_Z,
        plan.tile_expert,
        plan.tile_first,
        plan.tile_stop,
        plan.num_tiles,
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
