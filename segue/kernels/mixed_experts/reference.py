"""A mixture of experts as the operators that it consists of.

T tokens, H hidden size, E experts, A experts of a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from segue.kernels import moe, quantized_product
from segue.kernels.product import Epilogue, product
from segue.kernels.product.reference import Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedWeights:
    """A layer's experts. Gates are stacked on ups. The routed and the shared ones are stored alike
    but may differ in width."""

    gate_up: Stored
    """[E, 2 I, H]; a rank may have only some of the experts."""
    down: Stored
    """[E, H, I]"""
    shared_gate_up: Stored
    shared_down: Stored
    shared_gate_1H: Tensor
    first_expert: int = 0
    """The first of those that the rank has."""


def are_alike(routed: Stored, shared: Stored) -> bool:
    """Whether both are stored in one format."""
    return [part.dtype for part in routed] == [part.dtype for part in shared]


def mixed_experts(
    x_TH: Tensor, router_logits_TE: Tensor, weights: MixedWeights, *, experts_per_token: int
) -> Tensor:
    """The weighted sum of a token's best experts, and sigmoid(shared gate) times the shared one
    [T, H], as `segue.kernels.moe` defines them."""
    if len(weights.gate_up) == 1:
        y_TAH, weights_TA = moe.routed_experts(
            x_TH,
            router_logits_TE,
            weights.gate_up[0],
            weights.down[0],
            experts_per_token=experts_per_token,
            first_expert=weights.first_expert,
        )
    else:
        y_TAH, weights_TA = quantized_product.routed_experts(
            x_TH,
            router_logits_TE,
            weights.gate_up,
            weights.down,
            experts_per_token=experts_per_token,
            first_expert=weights.first_expert,
        )
    h_TI = _multiplied(x_TH, weights.shared_gate_up, Epilogue.SILU_GATE)
    shared_TH = _multiplied(h_TI, weights.shared_down, Epilogue.NONE)
    return moe.combine_experts(y_TAH, weights_TA, shared_TH, product(x_TH, weights.shared_gate_1H))


def _multiplied(x_TK: Tensor, stored: Stored, epilogue: Epilogue) -> Tensor:
    if len(stored) == 1:
        return product(x_TK, stored[0], epilogue)
    return quantized_product.quantized_product(x_TK, stored, epilogue)
