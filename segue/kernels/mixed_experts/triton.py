"""A mixture of experts in Triton, for few tokens: the shared expert is one that all of them have.

Routing is that of `segue.kernels.moe`. Then there are two products, each over tiles of one expert
with all tokens that have it, plain or quantised, and a sum, which also computes the shared expert's
gate. The shared expert's tiles are the first programs of a product. The grid is an upper bound:
programs without a tile return at once. Of up to four tokens each has tiles of its own, and the
first product's programs choose its experts.

A tile has 16 rows for any number of tokens, and its sums follow the order of its columns, so a
token has the same bits beside any others. More tokens are left to the operators one by one, with
the shared expert's in parallel.

T tokens, H hidden size, E experts, A experts of a token, I width of an expert, Z = T · A pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
import triton
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.mixed_experts import reference
from segue.kernels.mixed_experts.reference import MixedWeights, are_alike
from segue.kernels.mixed_experts.triton_choice import choose_first_kernel
from segue.kernels.mixed_experts.triton_kernels import sum_kernel, tiles_kernel
from segue.kernels.moe.tiling import STREAMING
from segue.kernels.moe.triton_routing import (
    MAX_EXPERTS,
    MAX_EXPERTS_PER_TOKEN,
    route,
)
from segue.kernels.product.reference import Stored
from segue.kernels.product.tiling import FEW_ROWS, QUANTIZED, Tile
from segue.kernels.product.triton import pointers, scales_per_row

Tables: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""As in `segue.kernels.moe.triton_routing`: pairs, and of each tile its expert, first row and the
end of its rows; the number of tiles."""
BLOCK_H, SUM_WARPS = 512, 2
FEW_TOKENS = 4
"""Tokens that choose for themselves: one sequence with three drafts."""


def mixed_experts(
    x_TH: Tensor, router_logits_TE: Tensor, weights: MixedWeights, *, experts_per_token: int
) -> Tensor:
    """As the reference's."""
    num_tokens, hidden_size = x_TH.shape
    if not 0 < num_tokens <= FEW_ROWS:
        return reference.mixed_experts(
            x_TH, router_logits_TE, weights, experts_per_token=experts_per_token
        )
    _check(x_TH, router_logits_TE, weights, experts_per_token)
    shape = _Shape.of(x_TH, router_logits_TE, weights, experts_per_token)
    first_product = _chosen_first_product if num_tokens <= FEW_TOKENS else _first_product
    h, weights_TA, tables = first_product(x_TH, router_logits_TE, weights, shape)
    new = x_TH.new_empty if shape.num_held == shape.num_experts else x_TH.new_zeros
    y_TBH = new((num_tokens, experts_per_token + 1, hidden_size))
    _product(h, y_TBH, weights.down, weights.shared_down, tables, shape, is_first=False)
    out_TH = x_TH.new_empty((num_tokens, hidden_size))
    sum_kernel[(num_tokens * triton.cdiv(hidden_size, BLOCK_H),)](
        y_TBH,
        weights_TA,
        x_TH,
        weights.shared_gate_1H,
        out_TH,
        hidden_size,
        A=experts_per_token,
        BLOCK_H=BLOCK_H,
        num_warps=SUM_WARPS,
        **dependent_launch.options(x_TH.device),
    )
    return out_TH


def _first_product(
    x_TH: Tensor, router_logits_TE: Tensor, weights: MixedWeights, shape: _Shape
) -> tuple[Tensor, Tensor, Tables]:
    """h, the pairs' weights [T, A], and the second product's tables."""
    weights_TA, plan = route(router_logits_TE, shape.experts_per_token, STREAMING.rows)
    if shape.num_held < shape.num_experts:
        first = weights.first_expert
        plan = plan.of_experts(range(first, first + shape.num_held))
    h = shape.new_h(x_TH)
    gate_ups = (weights.gate_up, weights.shared_gate_up)
    _product(x_TH, h, *gate_ups, plan.tables, shape, is_first=True)
    return h, weights_TA, plan.tables


def _product(
    x: Tensor,
    out: Tensor,
    routed: Stored,
    shared: Stored,
    tables: Tables,
    shape: _Shape,
    *,
    is_first: bool,
) -> None:
    num_tiles = (triton.cdiv(shape.num_tokens, STREAMING.rows), len(tables[1]))
    tiles_kernel[(shape.num_programs(*num_tiles, is_first=is_first),)](
        x,
        *pointers(routed),
        *pointers(shared),
        out,
        *tables,
        *shape.arguments(routed, shared),
        IS_FIRST=is_first,
        **shape.options(x, is_first=is_first),
        **dependent_launch.options(x.device),
    )


def _chosen_first_product(
    x_TH: Tensor, router_logits_TE: Tensor, weights: MixedWeights, shape: _Shape
) -> tuple[Tensor, Tensor, Tables]:
    """The same of very few tokens, each in a tile of its own."""
    num_pairs = shape.num_tokens * shape.experts_per_token
    weights_TA = x_TH.new_empty((shape.num_tokens, shape.experts_per_token), dtype=torch.float32)
    pairs_Z, tile_expert, tile_first, tile_stop = (
        x_TH.new_empty(num_pairs, dtype=torch.int32) for _ in range(4)
    )
    tables = (pairs_Z, tile_expert, tile_first, tile_stop, x_TH.new_empty(1, dtype=torch.int32))
    h = shape.new_h(x_TH)
    choose_first_kernel[(shape.num_programs(shape.num_tokens, num_pairs, is_first=True),)](
        router_logits_TE,
        x_TH,
        *pointers(weights.gate_up),
        *pointers(weights.shared_gate_up),
        h,
        weights_TA,
        *tables,
        *shape.arguments(weights.gate_up, weights.shared_gate_up),
        shape.num_experts,
        weights.first_expert,
        shape.num_held,
        BLOCK_A=triton.next_power_of_2(shape.experts_per_token),
        BLOCK_E=triton.next_power_of_2(shape.num_experts),
        **shape.options(x_TH, is_first=True),
        **dependent_launch.options(x_TH.device),
    )
    return h, weights_TA, tables


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    num_tokens: int
    hidden_size: int
    width: int
    shared_width: int
    num_experts: int
    num_held: int
    experts_per_token: int
    is_plain: bool

    @classmethod
    def of(
        cls, x_TH: Tensor, logits_TE: Tensor, weights: MixedWeights, experts_per_token: int
    ) -> _Shape:
        return cls(
            num_tokens=x_TH.shape[0],
            hidden_size=x_TH.shape[1],
            width=weights.gate_up[0].shape[1] // 2,
            shared_width=len(weights.shared_gate_up[0]) // 2,
            num_experts=logits_TE.shape[1],
            num_held=len(weights.down[0]),
            experts_per_token=experts_per_token,
            is_plain=len(weights.gate_up) == 1,
        )

    def tile(self, *, is_first: bool) -> Tile:
        if not self.is_plain:
            return QUANTIZED
        return STREAMING.gate_up if is_first else STREAMING.down

    def num_programs(self, shared_tiles: int, routed_tiles: int, *, is_first: bool) -> int:
        outputs = (self.hidden_size, self.hidden_size)
        if is_first:
            outputs = (2 * self.shared_width, 2 * self.width)
        shared_blocks, routed_blocks = (
            triton.cdiv(num, self.tile(is_first=is_first).columns) for num in outputs
        )
        return int(shared_tiles * shared_blocks + routed_tiles * routed_blocks)

    def new_h(self, x_TH: Tensor) -> Tensor:
        """Of the pairs, then of the shared expert."""
        per_token = self.experts_per_token * self.width + self.shared_width
        return x_TH.new_empty(self.num_tokens * per_token)

    def arguments(self, routed: Stored, shared: Stored) -> tuple[int, ...]:
        """A kernel's numbers; the last are scales of a row."""
        sizes = (self.num_tokens, self.hidden_size, self.width, self.shared_width)
        return (*sizes, *(scales_per_row(pointers(each)) for each in (routed, shared)))

    def options(self, x: Tensor, *, is_first: bool) -> dict[str, int]:
        weight_bytes = x.element_size() if self.is_plain else None
        tile = self.tile(is_first=is_first)
        return {"A": self.experts_per_token, **tile.options(STREAMING.rows, weight_bytes)}


def _check(x_TH: Tensor, logits_TE: Tensor, weights: MixedWeights, experts_per_token: int) -> None:
    """Raises `ValueError` if a kernel would read the wrong memory."""
    alike = ((weights.gate_up, weights.shared_gate_up), (weights.down, weights.shared_down))
    if not all(are_alike(*each) for each in alike):
        raise ValueError("mixed_experts takes routed and shared experts of one format")
    every = (
        x_TH,
        logits_TE,
        weights.shared_gate_1H,
        *(x for each in alike for w in each for x in w),
    )
    if not all(tensor.is_contiguous() for tensor in every):
        raise ValueError("mixed_experts takes contiguous tensors; call contiguous() first")
    plain = weights.gate_up[0].dtype if len(weights.gate_up) == 1 else x_TH.dtype
    if not x_TH.dtype == weights.shared_gate_1H.dtype == plain:
        raise ValueError(f"mixed_experts takes plain weights of the dtype of x, {x_TH.dtype}")
    (num_tokens, hidden_size), num_experts = x_TH.shape, logits_TE.shape[1]
    num_held, num_gates = weights.gate_up[0].shape[:2]
    got = (len(logits_TE), weights.down[0].shape[:2], len(weights.shared_down[0]))
    expected = (num_tokens, (num_held, hidden_size), hidden_size)
    if got != expected or num_gates % 2 or weights.shared_gate_1H.shape != (1, hidden_size):
        raise ValueError(
            f"mixed_experts takes logits [T, E], gate_up [E, 2 I, H], down [E, H, I] and a shared "
            f"gate [1, H], got {tuple(logits_TE.shape)}, {tuple(weights.gate_up[0].shape)}, "
            f"{tuple(weights.down[0].shape)}, {tuple(weights.shared_gate_1H.shape)}"
        )
    most = min(MAX_EXPERTS_PER_TOKEN, num_experts)
    is_part = 0 <= weights.first_expert <= num_experts - num_held
    if num_experts > MAX_EXPERTS or not 1 <= experts_per_token <= most or not is_part:
        raise ValueError(
            f"mixed_experts takes at most {MAX_EXPERTS} experts, 1 to {most} of them a token, and "
            f"{num_held} of them from the first held on, got {num_experts}, {experts_per_token} "
            f"and {weights.first_expert}"
        )
