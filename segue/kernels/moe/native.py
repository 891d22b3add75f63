"""Mixture of experts on a CPU: the reference, with the products of `segue.kernels.product`."""

from __future__ import annotations

from torch import Tensor

from segue.kernels.moe import reference
from segue.kernels.product import product


def routed_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up_EJH: Tensor,
    down_EHI: Tensor,
    *,
    experts_per_token: int,
    first_expert: int = 0,
) -> tuple[Tensor, Tensor]:
    return reference.routed_by(
        lambda expert, x: product(x, gate_up_EJH[expert]),
        lambda expert, x: product(x, down_EHI[expert]),
        x_TH,
        router_logits_TE,
        experts_per_token=experts_per_token,
        held=range(first_expert, first_expert + len(down_EHI)),
    )
