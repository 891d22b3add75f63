"""Weight matrices as values: the model multiplies by them and never sees how they are stored.

To add another format, such as block-scaled FP8, add a class here, make it a member of `Weight` or
`Experts`, and add a case to `weight_of` or `experts_of`. These see all loaded tensors: the numbers
under a name, and scales or the like under names that start with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from segue.kernels.moe import routed_experts
from segue.kernels.product import product


class PlainWeight:
    """A matrix [N, K] in the dtype of its inputs: T rows, K inputs, N outputs."""

    def __init__(self, weight_NK: Tensor) -> None:
        self._weight_NK = weight_NK

    def rows(self, start: int, end: int) -> PlainWeight:
        """The weight of outputs `start` to `end`, in the same memory. A format with one scale per
        block of rows takes only whole blocks: `start` and `end`, and the boundaries of stacked
        parts, must be block boundaries."""
        return PlainWeight(self._weight_NK[start:end])

    def matmul(self, x_TK: Tensor) -> Tensor:
        """x Wᵀ [T, N]."""
        return product(x_TK, self._weight_NK)


class PlainExperts:
    """Gate stacked on up [E, 2 I, H] and down [E, H, I], all experts, in their inputs' dtype."""

    def __init__(self, gate_up_EJH: Tensor, down_EHI: Tensor) -> None:
        self._gate_up_EJH = gate_up_EJH
        self._down_EHI = down_EHI

    def routed(
        self, x_TH: Tensor, router_logits_TE: Tensor, *, experts_per_token: int
    ) -> tuple[Tensor, Tensor]:
        """As `segue.kernels.moe.routed_experts`."""
        return routed_experts(
            x_TH,
            router_logits_TE,
            self._gate_up_EJH,
            self._down_EHI,
            experts_per_token=experts_per_token,
        )


Weight = PlainWeight
Experts = PlainExperts


def weight_of(tensors: Mapping[str, Tensor], name: str) -> Weight:
    """The matrix of this name among a model's tensors."""
    return PlainWeight(tensors[name])


def experts_of(tensors: Mapping[str, Tensor], at: str) -> Experts:
    """The experts whose matrices have names under `at`."""
    return PlainExperts(tensors[f"{at}.gate_up_proj"], tensors[f"{at}.down_proj"])
