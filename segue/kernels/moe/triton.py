"""Mixture of experts in Triton: two products over tiles of one expert each, and a sum.

The rows of a tile are gathered from the tokens and scattered to their places in [T, A, H]. So no
product depends on the rest of the batch, and each token's sum runs over its own experts in its own
order. The grid is an upper bound: programs without a tile in the plan return at once.

T tokens, H hidden size, E experts, A experts of a token, I width of an expert, J = 2 I, Z = T · A
pairs, sorted by expert. M rows of a tile, N columns of its product, K the summed dimension.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.moe.tiling import tiling_of
from segue.kernels.moe.triton_routing import MAX_EXPERTS, MAX_EXPERTS_PER_TOKEN, RoutingPlan, route
from segue.kernels.product.tiling import Tile

BLOCK_H = 512


@triton.jit
def gate_up_kernel(
    x_ptr,
    gate_up_ptr,
    h_ptr,
    pairs_ptr,
    tile_expert_ptr,
    tile_first_ptr,
    tile_stop_ptr,
    num_tiles_ptr,
    hidden_size,
    width,
    A: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """h = silu(gate(x)) · up(x), [Z, I] in the order of the pairs.

    Columns alternate between gate and up, so that one product has both values of a channel side by
    side.
    """
    num_column_blocks = tl.cdiv(width, BLOCK_N // 2)
    tile = tl.program_id(0) // num_column_blocks
    channel = (tl.program_id(0) % num_column_blocks) * (BLOCK_N // 2)
    # Loaded all at once; the table's entries for a missing tile are not used.
    num_tiles = tl.load(num_tiles_ptr)
    expert = tl.load(tile_expert_ptr + tile).to(tl.int64)
    first = tl.load(tile_first_ptr + tile)
    stop = tl.load(tile_stop_ptr + tile)
    if tile >= num_tiles:
        return
    rows_M = first + tl.arange(0, BLOCK_M)
    inside_M = rows_M < stop
    tokens_M = (tl.load(pairs_ptr + rows_M, mask=inside_M, other=0) // A).to(tl.int64)

    columns_N = tl.arange(0, BLOCK_N)
    channels_N = channel + columns_N // 2
    inside_N = channels_N < width
    outputs_N = (expert * 2 + columns_N % 2) * width + channels_N
    depths_K = tl.arange(0, BLOCK_K)
    x_MK = x_ptr + tokens_M[:, None] * hidden_size + depths_K[None, :]
    weight_KN = gate_up_ptr + outputs_N[None, :] * hidden_size + depths_K[:, None]
    sum_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for depth in range(0, hidden_size, BLOCK_K):
        inside_K = depths_K < hidden_size - depth
        sum_MN = tl.dot(
            tl.load(x_MK + depth, mask=inside_M[:, None] & inside_K[None, :], other=0.0),
            tl.load(weight_KN + depth, mask=inside_N[None, :] & inside_K[:, None], other=0.0),
            sum_MN,
            input_precision="ieee",
        )
    gate_MC, up_MC = tl.split(tl.reshape(sum_MN, (BLOCK_M, BLOCK_N // 2, 2)))
    h_MC = (gate_MC * tl.sigmoid(gate_MC) * up_MC).to(h_ptr.dtype.element_ty)
    channels_C = channel + tl.arange(0, BLOCK_N // 2)
    tl.store(
        h_ptr + rows_M.to(tl.int64)[:, None] * width + channels_C[None, :],
        h_MC,
        mask=inside_M[:, None] & (channels_C < width)[None, :],
    )


@triton.jit
def down_kernel(
    h_ptr,
    down_ptr,
    y_ptr,
    pairs_ptr,
    tile_expert_ptr,
    tile_first_ptr,
    tile_stop_ptr,
    num_tiles_ptr,
    hidden_size,
    width,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y = down(h), with each row stored at its pair's place in [T, A, H]."""
    num_column_blocks = tl.cdiv(hidden_size, BLOCK_N)
    tile = tl.program_id(0) // num_column_blocks
    outputs_N = (tl.program_id(0) % num_column_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_N = outputs_N < hidden_size
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

    depths_K = tl.arange(0, BLOCK_K)
    h_MK = h_ptr + rows_M.to(tl.int64)[:, None] * width + depths_K[None, :]
    weight_KN = down_ptr + (expert * hidden_size + outputs_N)[None, :] * width + depths_K[:, None]
    sum_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for depth in range(0, width, BLOCK_K):
        inside_K = depths_K < width - depth
        sum_MN = tl.dot(
            tl.load(h_MK + depth, mask=inside_M[:, None] & inside_K[None, :], other=0.0),
            tl.load(weight_KN + depth, mask=inside_N[None, :] & inside_K[:, None], other=0.0),
            sum_MN,
            input_precision="ieee",
        )
    tl.store(
        y_ptr + pairs_M[:, None] * hidden_size + outputs_N[None, :],
        sum_MN.to(y_ptr.dtype.element_ty),
        mask=inside_M[:, None] & inside_N[None, :],
    )


@triton.jit
def combine_kernel(
    y_ptr,
    weights_ptr,
    shared_ptr,
    shared_gate_ptr,
    out_ptr,
    hidden_size,
    A: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    num_column_blocks = tl.cdiv(hidden_size, BLOCK_H)
    token = (tl.program_id(0) // num_column_blocks).to(tl.int64)
    columns_H = (tl.program_id(0) % num_column_blocks) * BLOCK_H + tl.arange(0, BLOCK_H)
    inside_H = columns_H < hidden_size
    sum_H = tl.zeros((BLOCK_H,), tl.float32)
    for rank in tl.static_range(A):
        pair = token * A + rank
        y_H = tl.load(y_ptr + pair * hidden_size + columns_H, mask=inside_H, other=0.0)
        sum_H += tl.load(weights_ptr + pair) * y_H.to(tl.float32)
    gate = tl.sigmoid(tl.load(shared_gate_ptr + token).to(tl.float32))
    shared_H = tl.load(shared_ptr + token * hidden_size + columns_H, mask=inside_H, other=0.0)
    out_H = sum_H + gate * shared_H.to(tl.float32)
    tl.store(out_ptr + token * hidden_size + columns_H, out_H, mask=inside_H)


def routed_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up_EJH: Tensor,
    down_EHI: Tensor,
    *,
    experts_per_token: int,
    first_expert: int = 0,
) -> tuple[Tensor, Tensor]:
    """As the reference's."""
    num_tokens, hidden_size = x_TH.shape
    num_held, _, width = down_EHI.shape
    num_experts = router_logits_TE.shape[1]
    _check_experts(x_TH, router_logits_TE, gate_up_EJH, down_EHI, experts_per_token, first_expert)
    is_part = num_held < num_experts
    new = x_TH.new_zeros if is_part else x_TH.new_empty
    y_TAH = new((num_tokens, experts_per_token, hidden_size))
    if num_tokens == 0:
        return y_TAH, x_TH.new_empty((0, experts_per_token), dtype=torch.float32)
    tiling = tiling_of(num_tokens, num_experts, experts_per_token)
    weights_TA, plan = route(router_logits_TE, experts_per_token, tiling.rows)
    if is_part:
        plan = plan.of_experts(range(first_expert, first_expert + num_held))
    h_ZI = x_TH.new_empty((num_tokens * experts_per_token, width))
    gate_up_kernel[(plan.max_tiles * triton.cdiv(2 * width, tiling.gate_up.columns),)](
        x_TH,
        gate_up_EJH,
        h_ZI,
        *_tables(plan),
        hidden_size,
        width,
        A=experts_per_token,
        BLOCK_M=tiling.rows,
        **_options(tiling.gate_up, x_TH.dtype),
    )
    down_kernel[(plan.max_tiles * triton.cdiv(hidden_size, tiling.down.columns),)](
        h_ZI,
        down_EHI,
        y_TAH,
        *_tables(plan),
        hidden_size,
        width,
        BLOCK_M=tiling.rows,
        **_options(tiling.down, x_TH.dtype),
    )
    return y_TAH, weights_TA


def combine_experts(
    y_TAH: Tensor, weights_TA: Tensor, shared_TH: Tensor, shared_gate_T1: Tensor
) -> Tensor:
    """As the reference's."""
    num_tokens, experts_per_token, hidden_size = y_TAH.shape
    _check_contiguous("combine_experts", y_TAH, weights_TA, shared_TH, shared_gate_T1)
    out_TH = y_TAH.new_empty((num_tokens, hidden_size))
    if num_tokens:
        combine_kernel[(num_tokens * triton.cdiv(hidden_size, BLOCK_H),)](
            y_TAH,
            weights_TA,
            shared_TH,
            shared_gate_T1,
            out_TH,
            hidden_size,
            A=experts_per_token,
            BLOCK_H=BLOCK_H,
            num_warps=2,
        )
    return out_TH


def _tables(plan: RoutingPlan) -> tuple[Tensor, ...]:
    return plan.pairs_Z, plan.tile_expert, plan.tile_first, plan.tile_stop, plan.num_tiles


def _options(tile: Tile, dtype: torch.dtype) -> dict[str, int]:
    return {
        "BLOCK_N": tile.columns,
        # The same bytes of shared memory in float32 as in bfloat16.
        "BLOCK_K": tile.depth * 2 // dtype.itemsize,
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }


def _check_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up_EJH: Tensor,
    down_EHI: Tensor,
    experts_per_token: int,
    first_expert: int,
) -> None:
    _check_contiguous("routed_experts", x_TH, router_logits_TE, gate_up_EJH, down_EHI)
    if not x_TH.dtype == gate_up_EJH.dtype == down_EHI.dtype:
        raise ValueError(
            f"routed_experts takes weights of the dtype of x, got {gate_up_EJH.dtype} and "
            f"{down_EHI.dtype} for {x_TH.dtype}; load them as {x_TH.dtype}"
        )
    num_held, width = down_EHI.shape[0], down_EHI.shape[2]
    num_experts = router_logits_TE.shape[-1]
    if num_experts != num_held and not 0 <= first_expert <= num_experts - num_held:
        num_experts = num_held
    expected = (
        (x_TH.shape[0], num_experts),
        (num_held, 2 * width, x_TH.shape[1]),
        (num_held, x_TH.shape[1], width),
    )
    got = tuple(tuple(t.shape) for t in (router_logits_TE, gate_up_EJH, down_EHI))
    if got != expected:
        raise ValueError(
            f"routed_experts takes logits [T, E], gate_up [E, 2 I, H] and down [E, H, I]; for this "
            f"x and down that is {expected}, got {got}"
        )
    most = min(MAX_EXPERTS_PER_TOKEN, num_experts)
    if num_experts > MAX_EXPERTS or not 1 <= experts_per_token <= most:
        raise ValueError(
            f"routed_experts takes at most {MAX_EXPERTS} experts and 1 to {most} per token, got "
            f"{num_experts} and {experts_per_token}"
        )


def _check_contiguous(operator: str, *tensors: Tensor) -> None:
    for tensor in tensors:
        if not tensor.is_contiguous():
            raise ValueError(
                f"{operator} takes contiguous tensors, got shape {tuple(tensor.shape)}, strides "
                f"{tensor.stride()}; call contiguous() first"
            )
