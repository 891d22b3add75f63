"""Routing in Triton: each token's best experts, and a plan of tiles that have one expert each.

T tokens, E experts, A experts of a token, B blocks of tokens, Z = T · A pairs. Pair t · A + a is
token t with its a-th best expert. The plan, all int32:

    pairs [Z]          sorted by expert, then by token
    tile_expert [·]    each tile's expert
    tile_first [·]     where the tile's rows start in `pairs`
    tile_stop [·]      where its expert's rows end; the tile has at most BLOCK_M of them
    num_tiles [1]      number of tiles, which only the device knows

It is a counting sort. For up to BLOCK_T tokens one program does everything. More tokens are cut
into blocks: one kernel chooses and counts, one sums the counts, one places the pairs. No program
waits for another, and nothing depends on the order in which they run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.dependent_launch import start
from segue.kernels.moe.tiling import max_tiles
from segue.kernels.moe.triton_choice import choose

MAX_EXPERTS = 1024
"""One program holds a token's logits in registers."""
MAX_EXPERTS_PER_TOKEN = 32
"""Each expert takes one iteration of the choice, and iterations are unrolled."""
BLOCK_T = 32
BLOCK_B = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingPlan:
    """The rows of each tile; see above."""

    pairs_Z: Tensor
    tile_expert: Tensor
    tile_first: Tensor
    tile_stop: Tensor
    num_tiles: Tensor

    @property
    def tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """In the order in which kernels take them."""
        return self.pairs_Z, self.tile_expert, self.tile_first, self.tile_stop, self.num_tiles

    @property
    def max_tiles(self) -> int:
        return len(self.tile_expert)

    def of_experts(self, held: range) -> RoutingPlan:
        """The tiles of other experts lose their rows; experts are counted from the first held."""
        is_held = (self.tile_expert >= held.start) & (self.tile_expert < held.stop)
        return replace(
            self,
            tile_expert=(self.tile_expert - held.start).clamp_(0, len(held) - 1),
            tile_stop=torch.where(is_held, self.tile_stop, self.tile_first),
        )


@triton.jit
def place(pairs_ptr, ranks_TE, tokens_T, first_E, A: tl.constexpr):
    """Stores each pair after those of its expert's earlier tokens, which start at `first_E`."""
    chosen_TE = (ranks_TE > 0).to(tl.int32)
    offsets_TE = first_E[None, :] + tl.cumsum(chosen_TE, axis=0) - chosen_TE
    tl.store(pairs_ptr + offsets_TE, tokens_T[:, None] * A + ranks_TE - 1, mask=ranks_TE > 0)


@triton.jit
def cut(tiles, first_E, counts_E, BLOCK_M: tl.constexpr):
    """Stores the tiles of all experts, sorted by expert."""
    tile_expert_ptr, tile_first_ptr, tile_stop_ptr, num_tiles_ptr = tiles
    tiles_E = (counts_E + BLOCK_M - 1) // BLOCK_M
    begin_E = tl.cumsum(tiles_E, axis=0) - tiles_E
    for i in range(tl.max(tiles_E, axis=0)):
        here_E = i < tiles_E
        tl.store(tile_expert_ptr + begin_E + i, tl.arange(0, first_E.shape[0]), mask=here_E)
        tl.store(tile_first_ptr + begin_E + i, first_E + i * BLOCK_M, mask=here_E)
        tl.store(tile_stop_ptr + begin_E + i, first_E + counts_E, mask=here_E)
    tl.store(num_tiles_ptr, tl.sum(tiles_E, axis=0))


@triton.jit(do_not_specialize=["num_tokens"])
def route_few_kernel(
    logits_ptr,
    weights_ptr,
    pairs_ptr,
    tile_expert_ptr,
    tile_first_ptr,
    tile_stop_ptr,
    num_tiles_ptr,
    num_tokens,
    num_experts,
    A: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start(IS_DEPENDENT)
    tokens_T = tl.arange(0, BLOCK_T)
    ranks_TE = choose(
        logits_ptr, weights_ptr, tokens_T, num_tokens, num_experts, A, BLOCK_A, BLOCK_T, BLOCK_E
    )
    counts_E = tl.sum((ranks_TE > 0).to(tl.int32), axis=0)
    first_E = tl.cumsum(counts_E, axis=0) - counts_E
    place(pairs_ptr, ranks_TE, tokens_T, first_E, A)
    tiles = (tile_expert_ptr, tile_first_ptr, tile_stop_ptr, num_tiles_ptr)
    cut(tiles, first_E, counts_E, BLOCK_M)


@triton.jit(do_not_specialize=["num_tokens"])
def choose_kernel(
    logits_ptr,
    weights_ptr,
    ranks_ptr,
    counts_ptr,
    num_tokens,
    num_experts,
    A: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """`ranks` int8 [T, E], and the number of this block's tokens that chose each expert, [B, E]."""
    block = tl.program_id(0)
    tokens_T = block * BLOCK_T + tl.arange(0, BLOCK_T)
    ranks_TE = choose(
        logits_ptr, weights_ptr, tokens_T, num_tokens, num_experts, A, BLOCK_A, BLOCK_T, BLOCK_E
    )
    experts_E = tl.arange(0, BLOCK_E)
    inside_E = experts_E < num_experts
    offsets_TE = tokens_T.to(tl.int64)[:, None] * num_experts + experts_E[None, :]
    inside_TE = (tokens_T < num_tokens)[:, None] & inside_E[None, :]
    tl.store(ranks_ptr + offsets_TE, ranks_TE, mask=inside_TE)
    counts_E = tl.sum((ranks_TE > 0).to(tl.int32), axis=0)
    tl.store(counts_ptr + block * num_experts + experts_E, counts_E, mask=inside_E)


@triton.jit(do_not_specialize=["num_blocks"])
def plan_kernel(
    counts_ptr,
    before_ptr,
    first_ptr,
    tile_expert_ptr,
    tile_first_ptr,
    tile_stop_ptr,
    num_tiles_ptr,
    num_blocks,
    num_experts,
    BLOCK_B: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """One program. `before` [B, E] sums the counts of earlier blocks; `first` [E] is where each
    expert's pairs start."""
    experts_E = tl.arange(0, BLOCK_E)
    inside_E = experts_E < num_experts
    total_E = tl.zeros((BLOCK_E,), tl.int32)
    for begin in range(0, num_blocks, BLOCK_B):
        blocks_B = begin + tl.arange(0, BLOCK_B)
        offsets_BE = blocks_B[:, None] * num_experts + experts_E[None, :]
        inside_BE = (blocks_B < num_blocks)[:, None] & inside_E[None, :]
        counts_BE = tl.load(counts_ptr + offsets_BE, mask=inside_BE, other=0)
        before_BE = total_E[None, :] + tl.cumsum(counts_BE, axis=0) - counts_BE
        tl.store(before_ptr + offsets_BE, before_BE, mask=inside_BE)
        total_E += tl.sum(counts_BE, axis=0)
    first_E = tl.cumsum(total_E, axis=0) - total_E
    tl.store(first_ptr + experts_E, first_E, mask=inside_E)
    tiles = (tile_expert_ptr, tile_first_ptr, tile_stop_ptr, num_tiles_ptr)
    cut(tiles, first_E, total_E, BLOCK_M)


@triton.jit(do_not_specialize=["num_tokens"])
def place_kernel(
    ranks_ptr,
    before_ptr,
    first_ptr,
    pairs_ptr,
    num_tokens,
    num_experts,
    A: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    block = tl.program_id(0)
    tokens_T = block * BLOCK_T + tl.arange(0, BLOCK_T)
    experts_E = tl.arange(0, BLOCK_E)
    inside_E = experts_E < num_experts
    offsets_TE = tokens_T.to(tl.int64)[:, None] * num_experts + experts_E[None, :]
    inside_TE = (tokens_T < num_tokens)[:, None] & inside_E[None, :]
    ranks_TE = tl.load(ranks_ptr + offsets_TE, mask=inside_TE, other=0).to(tl.int32)
    first_E = tl.load(first_ptr + experts_E, mask=inside_E, other=0)
    first_E += tl.load(before_ptr + block * num_experts + experts_E, mask=inside_E, other=0)
    place(pairs_ptr, ranks_TE, tokens_T, first_E, A)


def route(
    router_logits_TE: Tensor, experts_per_token: int, tile_rows: int
) -> tuple[Tensor, RoutingPlan]:
    """Float32 weights [T, A], and the plan."""
    num_tokens, num_experts = router_logits_TE.shape
    device = router_logits_TE.device

    def ints(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=device)

    shape_TA = (num_tokens, experts_per_token)
    weights_TA = torch.empty(shape_TA, dtype=torch.float32, device=device)
    tiles = max_tiles(num_tokens, num_experts, experts_per_token, tile_rows)
    plan = RoutingPlan(
        pairs_Z=ints(num_tokens * experts_per_token),
        tile_expert=ints(tiles),
        tile_first=ints(tiles),
        tile_stop=ints(tiles),
        num_tiles=ints(1),
    )
    tables = (plan.tile_expert, plan.tile_first, plan.tile_stop, plan.num_tiles)
    block_a = triton.next_power_of_2(experts_per_token)
    block_e = triton.next_power_of_2(num_experts)
    if num_tokens <= BLOCK_T:
        block_t = triton.next_power_of_2(num_tokens)
        route_few_kernel[(1,)](
            router_logits_TE,
            weights_TA,
            plan.pairs_Z,
            *tables,
            num_tokens,
            num_experts,
            A=experts_per_token,
            BLOCK_A=block_a,
            BLOCK_T=block_t,
            BLOCK_E=block_e,
            BLOCK_M=tile_rows,
            num_warps=num_warps(block_t * block_e),
            **dependent_launch.options(device),
        )
        return weights_TA, plan
    num_blocks = triton.cdiv(num_tokens, BLOCK_T)
    ranks_TE = torch.empty((num_tokens, num_experts), dtype=torch.int8, device=device)
    counts_BE, before_BE = ints(num_blocks, num_experts), ints(num_blocks, num_experts)
    first_E = ints(num_experts)
    choose_kernel[(num_blocks,)](
        router_logits_TE,
        weights_TA,
        ranks_TE,
        counts_BE,
        num_tokens,
        num_experts,
        A=experts_per_token,
        BLOCK_A=block_a,
        BLOCK_T=BLOCK_T,
        BLOCK_E=block_e,
        num_warps=num_warps(BLOCK_T * block_e),
    )
    plan_kernel[(1,)](
        counts_BE,
        before_BE,
        first_E,
        *tables,
        num_blocks,
        num_experts,
        BLOCK_B=BLOCK_B,
        BLOCK_E=block_e,
        BLOCK_M=tile_rows,
        num_warps=num_warps(BLOCK_B * block_e),
    )
    place_kernel[(num_blocks,)](
        ranks_TE,
        before_BE,
        first_E,
        plan.pairs_Z,
        num_tokens,
        num_experts,
        A=experts_per_token,
        BLOCK_T=BLOCK_T,
        BLOCK_E=block_e,
        num_warps=num_warps(BLOCK_T * block_e),
    )
    return weights_TA, plan


def num_warps(block: int) -> int:
    """16 elements a thread: it holds a 64-bit key for each, and its result."""
    return min(max(block // 512, 1), 16)
