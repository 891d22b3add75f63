"""Weights of products as values: the model multiplies by them and never sees how they are stored.

Another form, such as FP8 in blocks with scales, is another class here, a member of `Weight` or
`Experts`, and a case in `weight_of` or `experts_of`, which see all tensors that were loaded: the
numbers under a name, and what belongs to them under names that start with it.

On a CPU a product of one row reads the weight at the memory's speed, and one of many rows computes
at the cores' speed. In between, where small batches and verified drafts are, the plain float32
product costs two to three times one row. oneDNN's, on a weight that it has arranged beforehand,
costs 1.1 to 1.6 times one row; for a single row and for many it gains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels.moe import routed_experts

FEW_ROWS = range(2, 17)
MIN_ARRANGED = 1 << 19
"""Numbers in a matrix, 2 MiB: for smaller ones the plain product of few rows is as fast, and
oneDNN's calls take some 20 µs longer."""


class PlainWeight:
    """A matrix [N, K] in the dtype of its inputs: T rows, K inputs, N outputs."""

    def __init__(self, weight_NK: Tensor) -> None:
        self._weight_NK = weight_NK
        self._is_worth_arranging = (
            weight_NK.device.type == "cpu"
            and weight_NK.dtype is torch.float32
            and weight_NK.numel() >= MIN_ARRANGED
            and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        )
        self._arranged: Tensor | None = None

    def rows(self, start: int, end: int) -> PlainWeight:
        """The weight of outputs `start` to `end`, in the same memory. A form with a scale for a
        block of rows takes whole blocks only: these ends, as those of stacked parts, must fall on
        one."""
        return PlainWeight(self._weight_NK[start:end])

    def matmul(self, x_TK: Tensor) -> Tensor:
        """x Wᵀ [T, N]."""
        if self._is_worth_arranging and len(x_TK) in FEW_ROWS:
            return self._of_few(x_TK)
        return F.linear(x_TK, self._weight_NK)

    def _of_few(self, x_TK: Tensor) -> Tensor:
        if self._arranged is None:
            # A second copy of the weight: made when it is first of use, and in many workers never.
            self._arranged = torch.ops.mkldnn._reorder_linear_weight(self._weight_NK, None)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x_TK, self._arranged, None, "none", [], ""
        )
        return product


class PlainExperts:
    """Gate above up [E, 2 I, H] and down [E, H, I] of all experts, in the dtype of their inputs."""

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
