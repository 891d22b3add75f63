"""The products of routed experts in Triton, however weights and inputs are stored.

There are two, each over tiles of one expert: the rows of a tile are gathered from the tokens, and
scattered to their places in [T, A, H]. So no product depends on the rest of the batch. The first
ends with SwiGLU. The grid is an upper bound: programs without a tile in the plan return at once.

T tokens, H hidden size, E experts, A experts of a token, I width of an expert, Z = T · A pairs,
sorted by expert. M rows of a tile, N columns of its product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.moe.tiling import tiling_of
from segue.kernels.moe.triton_routing import route
from segue.kernels.product.reference import Stored
from segue.kernels.product.tiling import QUANTIZED
from segue.kernels.product.triton import Weight, pointers, scales_per_row
from segue.kernels.product.triton_sum import weight_sum
from segue.kernels.product.triton_tile import store_tile, weight_rows
from segue.kernels.scaled_product.triton_sum import scaled_sum

MOST_QUANTIZED_ROWS = 32
"""Of a tile whose weight becomes numbers again."""

Inputs: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]
"""Numbers alone, or codes, their scales and a scale of all."""


@triton.jit
def experts_kernel(
    x_ptr,
    x_scales_ptr,
    input_scale_ptr,
    numbers_ptr,
    scales_ptr,
    row_scales_ptr,
    out_ptr,
    pairs_ptr,
    tile_expert_ptr,
    tile_first_ptr,
    tile_stop_ptr,
    num_tiles_ptr,
    num_outputs,
    x_columns,
    num_scales,
    A: tl.constexpr,
    IS_FIRST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The first product reads tokens [T, H] and writes pairs in their order [Z, I]; the second
    reads these and writes each to its place in [T, A, H]. `x_columns`: elements of a row of x: its
    numbers, codes, or bytes with two codes."""
    num_column_tiles = tl.cdiv(num_outputs, BLOCK_N)
    tile, block = tl.program_id(0) // num_column_tiles, tl.program_id(0) % num_column_tiles
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
    if IS_FIRST:
        from_M, to_M = (pairs_M // A).to(tl.int64), rows_M.to(tl.int64)
    else:
        from_M, to_M = rows_M.to(tl.int64), pairs_M.to(tl.int64)
    outputs_N, inside_N = weight_rows(block, num_outputs, IS_FIRST, BLOCK_N)
    weight = (numbers_ptr, scales_ptr, row_scales_ptr)
    rows_N = expert * num_outputs + outputs_N
    if x_scales_ptr is None:
        x_M_ptr = x_ptr + from_M * x_columns
        sum_MN = weight_sum(
            x_M_ptr, inside_M, weight, rows_N, inside_N, x_columns, num_scales, BLOCK_K
        )
    else:
        x = (x_ptr, x_scales_ptr, input_scale_ptr)
        sum_MN = scaled_sum(
            x, from_M, inside_M, weight, rows_N, inside_N, x_columns, num_scales, BLOCK_K
        )
    store_tile(out_ptr, to_M, inside_M, sum_MN, block, num_outputs, IS_FIRST)


@dataclass(frozen=True, slots=True)
class ExpertsProduct:
    """One of the two products."""

    weight: Weight
    """Of the held experts."""
    options: Mapping[str, int]
    """Of its launch."""
    inputs: Callable[[Tensor], Inputs] = lambda x: (x, None, None)
    """From the product's inputs to those of the kernel."""


def through_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up: ExpertsProduct,
    down: ExpertsProduct,
    *,
    experts_per_token: int,
    first_expert: int,
) -> tuple[Tensor, Tensor]:
    """Outputs [T, A, H], zero of experts that are not held, and float32 weights [T, A]."""
    (num_tokens, hidden_size), num_experts = x_TH.shape, router_logits_TE.shape[1]
    num_held, num_gates_and_ups = gate_up.weight[0].shape[:2]
    new = x_TH.new_zeros if num_held < num_experts else x_TH.new_empty
    y_TAH = new((num_tokens, experts_per_token, hidden_size))
    if num_tokens == 0:
        return y_TAH, x_TH.new_empty((0, experts_per_token), dtype=torch.float32)
    weights_TA, plan = route(router_logits_TE, experts_per_token, gate_up.options["BLOCK_M"])
    if num_held < num_experts:
        plan = plan.of_experts(range(first_expert, first_expert + num_held))
    h_ZI = new((num_tokens * experts_per_token, num_gates_and_ups // 2))
    for product, rows, out in ((gate_up, x_TH, h_ZI), (down, h_ZI, y_TAH)):
        x, x_scales, input_scale = product.inputs(rows.contiguous())
        num_outputs = product.weight[0].shape[1]
        num_blocks = triton.cdiv(num_outputs, product.options["BLOCK_N"])
        experts_kernel[(plan.max_tiles * num_blocks,)](
            x,
            x_scales,
            input_scale,
            *product.weight,
            out,
            *plan.tables,
            num_outputs,
            x.shape[1],
            scales_per_row(product.weight),
            A=experts_per_token,
            IS_FIRST=product is gate_up,
            **product.options,
        )
    return y_TAH, weights_TA


def routed_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up: Stored,
    down: Stored,
    *,
    experts_per_token: int,
    first_expert: int = 0,
) -> tuple[Tensor, Tensor]:
    """As the reference's, and that of `segue.kernels.quantized_product`: for any stored form."""
    tiling = tiling_of(len(x_TH), router_logits_TE.shape[1], experts_per_token)
    if len(gate_up) == 1:
        options = [
            tile.options(tiling.rows, x_TH.element_size()) for tile in (tiling.gate_up, tiling.down)
        ]
    else:
        options = [QUANTIZED.options(min(tiling.rows, MOST_QUANTIZED_ROWS))] * 2
    return through_experts(
        x_TH,
        router_logits_TE,
        ExpertsProduct(pointers(gate_up), options[0]),
        ExpertsProduct(pointers(down), options[1]),
        experts_per_token=experts_per_token,
        first_expert=first_expert,
    )
