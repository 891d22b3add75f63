"""Experts with quantised weights and inputs in Triton, for many tokens.

As in `segue.kernels.moe.triton`: tiles of one expert each, with rows gathered from tokens in the
first product, which ends with SwiGLU, and scattered to their places in the second. Each token is
quantised once, and each pair's h once.

T tokens, H hidden size, E experts, A experts of a token, I width of an expert, Z = T · A pairs,
sorted by expert. M rows of a tile, N columns of its product.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.moe.triton_routing import RoutingPlan, route
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
    """The first product reads tokens [T, H] and writes pairs in their order [Z, I]; the second
    reads these and writes each to its place in [T, A, H]."""
    num_column_tiles = tl.cdiv(num_outputs, BLOCK_N)
    tile = tl.program_id(0) // num_column_tiles
    column_tile = tl.program_id(0) % num_column_tiles
    # Loaded all at once; the table's entries for a missing tile are not used.
    num_tiles = tl.load(num_tiles_ptr)
    expert = tl.load(tile_expert_ptr + tile).to(tl.int64)
    first = tl.load(tile_first_ptr + tile)
    stop = tl.load(tile_stop_ptr + tile)
    if tile >= num_tiles:
        return
    rows_M = first + tl.arange(0, BLOCK_M)
    inside_M = rows_M < stop
    pairs_M = tl.load(pairs_ptr + rows_M, mask=inside_M, other=0)
    outputs_N, inside_N = weight_rows(column_tile, num_outputs, IS_FIRST, BLOCK_N)
    if IS_FIRST:
        from_M, to_M, out_columns = pairs_M // A, rows_M, num_outputs // 2
    else:
        from_M, to_M, out_columns = rows_M, pairs_M, num_outputs
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
    store_tile(
        out_ptr + to_M.to(tl.int64) * out_columns,
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
    num_tokens, hidden_size = x_TH.shape
    num_held, num_rows = gate_up[0].shape[:2]
    num_experts = router_logits_TE.shape[1]
    new = x_TH.new_zeros if num_held < num_experts else x_TH.new_empty
    y_TAH = new((num_tokens, experts_per_token, hidden_size))
    if num_tokens == 0:
        return y_TAH, x_TH.new_empty((0, experts_per_token), dtype=torch.float32)
    weights_TA, plan = route(router_logits_TE, experts_per_token, ROWS)
    if num_held < num_experts:
        plan = plan.of_experts(range(first_expert, first_expert + num_held))
    h_ZI = new((num_tokens * experts_per_token, num_rows // 2))
    _product(x_TH, gate_up, input_scales[0], h_ZI, plan, experts_per_token, is_first=True)
    _product(h_ZI, down, input_scales[1], y_TAH, plan, experts_per_token, is_first=False)
    return y_TAH, weights_TA


def _product(
    x: Tensor,
    weight: Stored,
    input_scale: Tensor | None,
    out: Tensor,
    plan: RoutingPlan,
    experts_per_token: int,
    *,
    is_first: bool,
) -> None:
    codes, scales, *row_scales = weight
    how, num_outputs = format_of(weight), codes.shape[1]
    scaled_experts_kernel[(plan.max_tiles * triton.cdiv(num_outputs, TILES[how].columns),)](
        *quantized(x, weight, input_scale),
        codes,
        scales,
        row_scales[0] if row_scales else None,
        out,
        plan.pairs_Z,
        plan.tile_expert,
        plan.tile_first,
        plan.tile_stop,
        plan.num_tiles,
        num_outputs,
        codes.shape[2],
        scales.shape[-1],
        A=experts_per_token,
        IS_FIRST=is_first,
        **options(how),
    )
