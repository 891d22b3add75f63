"""Mixture of experts in plain PyTorch.

T tokens, H hidden size, E experts, A experts of a token, I width of an expert, J = 2 I. Z = T · A
pairs of a token and one of its experts, sorted by expert so that each expert is one product.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ExpertProduct = Callable[[int, Tensor], Tensor]
"""Of an expert's number and rows: the rows times a matrix of that expert."""


def routed_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up_EJH: Tensor,
    down_EHI: Tensor,
    *,
    experts_per_token: int,
    first_expert: int = 0,
) -> tuple[Tensor, Tensor]:
    """down(silu(gate(x)) · up(x)) of each token's best experts [T, A, H], and their weights [T, A].

    The best experts have the largest router logits, best first; among equal logits the lowest id
    comes first. Weights are float32: the router's softmax over all experts, normalised over the
    chosen ones. `gate_up` [E, 2 I, H] stacks gate on up; `down` is [E, H, I]; both have the dtype
    of `x`. They may have fewer experts than the logits: those from `first_expert` on. The output of
    the others is 0.
    """
    return routed_by(
        lambda expert, x: F.linear(x, gate_up_EJH[expert]),
        lambda expert, x: F.linear(x, down_EHI[expert]),
        x_TH,
        router_logits_TE,
        experts_per_token=experts_per_token,
        held=range(first_expert, first_expert + len(down_EHI)),
    )


def routed_by(
    gate_up: ExpertProduct,
    down: ExpertProduct,
    x_TH: Tensor,
    router_logits_TE: Tensor,
    *,
    experts_per_token: int,
    held: range,
) -> tuple[Tensor, Tensor]:
    """`routed_experts`, where `gate_up` and `down` multiply rows by the matrix of an expert, which
    is counted from the first of the `held` ones."""
    num_tokens, hidden_size = x_TH.shape
    experts_TA, weights_TA = route(router_logits_TE, experts_per_token)
    order_Z = experts_TA.flatten().argsort(stable=True)
    counts = experts_TA.flatten().bincount(minlength=router_logits_TE.shape[1]).tolist()
    x_ZH = x_TH[order_Z // experts_per_token]
    y_ZH = torch.empty_like(x_ZH) if len(held) == len(counts) else torch.zeros_like(x_ZH)
    first = 0
    for expert, count in enumerate(counts):
        if count and expert in held:
            rows, place = slice(first, first + count), expert - held.start
            gate, up = gate_up(place, x_ZH[rows]).chunk(2, dim=-1)
            y_ZH[rows] = down(place, F.silu(gate) * up)
        first += count
    y_TAH = torch.empty_like(y_ZH).index_copy_(0, order_Z, y_ZH)
    return y_TAH.view(num_tokens, experts_per_token, hidden_size), weights_TA


def combine_experts(
    y_TAH: Tensor, weights_TA: Tensor, shared_TH: Tensor, shared_gate_T1: Tensor
) -> Tensor:
    """Σ weight · y over a token's experts + sigmoid(shared gate) · shared [T, H].

    Summed in float32, best expert first, regardless of the rest of the batch. The result has the
    dtype of `y`.
    """
    routed_TH = torch.einsum("ta,tah->th", weights_TA, y_TAH.float())
    gated_TH = shared_gate_T1.float().sigmoid() * shared_TH.float()
    return (routed_TH + gated_TH).to(y_TAH.dtype)


def route(router_logits_TE: Tensor, experts_per_token: int) -> tuple[Tensor, Tensor]:
    """Each token's best experts and their weights, [T, A], best first.

    Among equal logits the lowest id comes first; `topk` does not guarantee that. A softmax over all
    experts, normalised over the chosen ones, equals the softmax over the chosen ones.
    """
    sorted_TE, experts_TE = router_logits_TE.float().sort(dim=-1, descending=True, stable=True)
    weights_TA = sorted_TE[:, :experts_per_token].softmax(dim=-1)
    return experts_TE[:, :experts_per_token], weights_TA
