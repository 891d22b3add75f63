"""Mixture of experts with plain weights in Triton, and the sum of each token's experts, in their
own order.

T tokens, H hidden size, E experts, A experts of a token, I width of an expert, J = 2 I.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.moe import triton_experts
from segue.kernels.moe.triton_routing import MAX_EXPERTS, MAX_EXPERTS_PER_TOKEN

BLOCK_H = 512


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
    _check_experts(x_TH, router_logits_TE, gate_up_EJH, down_EHI, experts_per_token, first_expert)
    return triton_experts.routed_experts(
        x_TH,
        router_logits_TE,
        [gate_up_EJH],
        [down_EHI],
        experts_per_token=experts_per_token,
        first_expert=first_expert,
    )


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
