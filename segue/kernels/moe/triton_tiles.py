"""What the products of routed experts have in common, however weights and inputs are stored.

There are two, each over tiles of one expert: the rows of a tile are gathered from the tokens, and
scattered to their places in [T, A, H]. So no product depends on the rest of the batch. The first
ends with SwiGLU. The grid is an upper bound: programs without a tile in the plan return at once.

T tokens, H hidden size, E experts, A experts of a token, I width of an expert, Z = T · A pairs,
sorted by expert. M rows of a tile, N columns of its product.
"""

from __future__ import annotations

from typing import Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.moe.triton_routing import RoutingPlan, route


@triton.jit
def tile_of_program(
    num_column_tiles,
    tile_expert_ptr,
    tile_first_ptr,
    tile_stop_ptr,
    num_tiles_ptr,
):
    """Of a program: its tile's expert, first row and the end of its rows, its tile of columns, and
    whether there is such a tile."""
    tile = tl.program_id(0) // num_column_tiles
    # Loaded all at once; the table's entries for a missing tile are not used.
    num_tiles = tl.load(num_tiles_ptr)
    expert = tl.load(tile_expert_ptr + tile).to(tl.int64)
    first = tl.load(tile_first_ptr + tile)
    stop = tl.load(tile_stop_ptr + tile)
    return expert, first, stop, tl.program_id(0) % num_column_tiles, tile < num_tiles


@triton.jit
def rows_of_tile(pairs_ptr, first, stop, A: tl.constexpr, IS_FIRST: tl.constexpr, BLOCK_M):
    """The rows that a tile reads, those that it writes, and which of them there are. The first
    product reads tokens [T, H] and writes pairs in their order [Z, I]; the second reads these and
    writes each to its place in [T, A, H]."""
    rows_M = first + tl.arange(0, BLOCK_M)
    inside_M = rows_M < stop
    pairs_M = tl.load(pairs_ptr + rows_M, mask=inside_M, other=0)
    if IS_FIRST:
        from_M, to_M = pairs_M // A, rows_M
    else:
        from_M, to_M = rows_M, pairs_M
    return from_M.to(tl.int64), to_M.to(tl.int64), inside_M


class ExpertsProduct(Protocol):
    """Launches one of the two products: of rows `x`, to `out`."""

    def __call__(self, x: Tensor, out: Tensor, plan: RoutingPlan, *, is_first: bool) -> None: ...


def through_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    product: ExpertsProduct,
    *,
    held: range,
    width: int,
    tile_rows: int,
    experts_per_token: int,
) -> tuple[Tensor, Tensor]:
    """Outputs [T, A, H] of experts whose first product has `width` outputs for a pair, zero of
    experts that are not held, and float32 weights [T, A]."""
    (num_tokens, hidden_size), num_experts = x_TH.shape, router_logits_TE.shape[1]
    new = x_TH.new_zeros if len(held) < num_experts else x_TH.new_empty
    y_TAH = new((num_tokens, experts_per_token, hidden_size))
    if num_tokens == 0:
        return y_TAH, x_TH.new_empty((0, experts_per_token), dtype=torch.float32)
    weights_TA, plan = route(router_logits_TE, experts_per_token, tile_rows)
    if len(held) < num_experts:
        plan = plan.of_experts(held)
    h_ZI = new((num_tokens * experts_per_token, width))
    product(x_TH, h_ZI, plan, is_first=True)
    product(h_ZI, y_TAH, plan, is_first=False)
    return y_TAH, weights_TA
