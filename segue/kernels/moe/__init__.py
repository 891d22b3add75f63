"""Mixture of experts: route tokens to a few experts; sum their outputs and a shared expert's."""

from __future__ import annotations

from torch import Tensor

from segue.kernels import dispatch
from segue.kernels.moe import reference

__all__ = ["combine_experts", "routed_experts"]


def routed_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up_EJH: Tensor,
    down_EHI: Tensor,
    *,
    experts_per_token: int,
) -> tuple[Tensor, Tensor]:
    """down(silu(gate(x)) · up(x)) of each token's best experts [T, A, H], and their weights [T, A].

    The best experts have the largest router logits, best first; among equal logits the lowest id
    comes first. Weights are float32: the router's softmax over all experts, normalised over the
    chosen ones. `gate_up` [E, 2 I, H] stacks gate on up; `down` is [E, H, I]; both have the dtype
    of `x`.
    """
    if dispatch.takes_kernels(x_TH):
        from segue.kernels.moe import triton

        return triton.routed_experts(
            x_TH, router_logits_TE, gate_up_EJH, down_EHI, experts_per_token=experts_per_token
        )
    return reference.routed_experts(
        x_TH, router_logits_TE, gate_up_EJH, down_EHI, experts_per_token=experts_per_token
    )


def combine_experts(
    y_TAH: Tensor, weights_TA: Tensor, shared_TH: Tensor, shared_gate_T1: Tensor
) -> Tensor:
    """Σ weight · y over a token's experts + sigmoid(shared gate) · shared [T, H].

    Summed in float32, best expert first, regardless of the rest of the batch. The result has the
    dtype of `y`.
    """
    if dispatch.takes_kernels(y_TAH):
        from segue.kernels.moe import triton

        return triton.combine_experts(y_TAH, weights_TA, shared_TH, shared_gate_T1)
    return reference.combine_experts(y_TAH, weights_TA, shared_TH, shared_gate_T1)
