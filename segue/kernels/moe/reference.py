"""Routed experts in plain PyTorch.

T tokens, H hidden size, E experts, A experts of a token, I width of an expert, Z = T · A pairs of a
token and one of its experts, sorted by expert so that each expert is one product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def routed_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up_EJH: Tensor,
    down_EHI: Tensor,
    *,
    experts_per_token: int,
) -> Tensor:
    """Σ weight · down(silu(gate(x)) · up(x)) [T, H] over each token's best experts.

    Weights are the softmax of the router over all experts, normalised over the chosen ones, in
    float32. `gate_up` [E, 2 I, H] stacks gate above up; `down` is [E, H, I].
    """
    num_tokens, hidden_size = x_TH.shape
    weights_TA, experts_TA = _route(router_logits_TE, experts_per_token)
    order_Z = experts_TA.flatten().argsort(stable=True)
    counts = experts_TA.flatten().bincount(minlength=gate_up_EJH.shape[0]).tolist()
    x_ZH = x_TH[order_Z // experts_per_token]
    y_ZH = torch.empty_like(x_ZH)
    first = 0
    for expert, count in enumerate(counts):
        if count:
            rows = slice(first, first + count)
            gate, up = F.linear(x_ZH[rows], gate_up_EJH[expert]).chunk(2, dim=-1)
            y_ZH[rows] = F.linear(F.silu(gate) * up, down_EHI[expert])
            first += count
    # Back in the tokens' order, so that each sum runs over the same experts in the same order
    # whatever else is in the batch.
    y_TAH = torch.empty_like(y_ZH).index_copy_(0, order_Z, y_ZH)
    y_TAH = y_TAH.view(num_tokens, experts_per_token, hidden_size)
    return torch.einsum("ta,tah->th", weights_TA.to(y_TAH.dtype), y_TAH)


def _route(router_logits_TE: Tensor, experts_per_token: int) -> tuple[Tensor, Tensor]:
    probabilities_TE = router_logits_TE.softmax(dim=-1, dtype=torch.float32)
    weights_TA, experts_TA = probabilities_TE.topk(experts_per_token, dim=-1)
    return weights_TA / weights_TA.sum(-1, keepdim=True), experts_TA
