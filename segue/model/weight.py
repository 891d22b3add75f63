"""Weight matrices as values: the model multiplies by them and never sees how they are stored.

To add another format of codes with scales, add it to `segue.kernels.quantized_product`; for
anything else add a class, make it a member of `Weight` or `Experts`, and add a case to `weight_of`
or `experts_of`. These see all loaded tensors: the
numbers under a name, and scales or the like under names that start with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, takewhile
from typing import TypeAlias

from torch import Tensor

from segue.api.errors import InvalidCheckpoint
from segue.kernels.mixed_experts import MixedWeights, are_alike
from segue.kernels.moe import routed_experts
from segue.kernels.product import Epilogue, product
from segue.model.weights.quantized import (
    QuantizedExperts,
    QuantizedWeight,
    StackedWeight,
)
from segue.model.weights.scaled import ScaledExperts, ScaledWeight, input_scale_of
from segue.model.weights.stored import INPUT_SCALES, ROW_SCALES, SCALES


class PlainWeight:
    """A matrix [N, K] in the dtype of its inputs: T rows, K inputs, N outputs."""

    def __init__(self, weight_NK: Tensor) -> None:
        self._weight_NK = weight_NK

    @property
    def num_rows(self) -> int:
        return len(self._weight_NK)

    def rows(self, start: int, end: int) -> PlainWeight:
        """The weight of outputs `start` to `end`, in the same memory."""
        return PlainWeight(self._weight_NK[start:end])

    def matmul(self, x_TK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
        """x Wᵀ, finished as `epilogue` says."""
        return product(x_TK, self._weight_NK, epilogue)


class PlainExperts:
    """Gate stacked on up [E, 2 I, H] and down [E, H, I], in their inputs' dtype: all experts, or
    those from `first_expert` on that a rank has."""

    def __init__(self, gate_up_EJH: Tensor, down_EHI: Tensor, first_expert: int) -> None:
        self._gate_up_EJH = gate_up_EJH
        self._down_EHI = down_EHI
        self._first_expert = first_expert

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
            first_expert=self._first_expert,
        )


Weight: TypeAlias = PlainWeight | QuantizedWeight | StackedWeight
Experts: TypeAlias = PlainExperts | QuantizedExperts


def weight_of(tensors: Mapping[str, Tensor], name: str) -> Weight:
    """The matrix of this name among a model's tensors."""
    if name not in tensors:
        parts = takewhile(tensors.__contains__, (f"{name}.{number}" for number in count()))
        return StackedWeight([weight_of(tensors, part) for part in parts])
    stored = _stored(tensors, name)
    if len(stored) == 1:
        return PlainWeight(*stored)
    if (scales := tensors.get(f"{name}.{INPUT_SCALES}")) is not None:
        return ScaledWeight(stored, input_scale_of(scales))
    return QuantizedWeight(stored)


def experts_of(tensors: Mapping[str, Tensor], at: str, *, first_expert: int = 0) -> Experts:
    """The experts whose matrices have names under `at`. `first_expert`: the first of those there,
    if a rank has only some. Raises InvalidCheckpoint if some are quantised."""
    names = [f"{at}.{name}" for name in ("gate_up_proj", "down_proj")]
    gate_up, down = (_stored(tensors, name) for name in names)
    if len(gate_up) == len(down) == 1:
        return PlainExperts(*gate_up, *down, first_expert=first_expert)
    if 1 in (len(gate_up), len(down)):
        raise InvalidCheckpoint(f"the experts under {at} must all be stored alike")
    scales = [tensors.get(f"{name}.{INPUT_SCALES}") for name in names]
    match scales:
        case [Tensor() as of_gate_up, Tensor() as of_down]:
            both = (input_scale_of(of_gate_up), input_scale_of(of_down))
            return ScaledExperts(gate_up, down, first_expert, both)
    return QuantizedExperts(gate_up, down, first_expert)


def mixed_of(
    tensors: Mapping[str, Tensor], at: str, *, first_expert: int = 0
) -> MixedWeights | None:
    """All experts of a layer, if the shared one is stored as the others are, and its gate plain."""
    names = ("experts.gate_up_proj", "experts.down_proj", "shared_expert.gate_up_proj")
    gate_up, down, shared_gate_up, shared_down, shared_gate = (
        _stored(tensors, f"{at}.{name}")
        for name in (*names, "shared_expert.down_proj", "shared_gate")
    )
    is_alike = are_alike(gate_up, shared_gate_up) and are_alike(down, shared_down)
    if not is_alike or len(gate_up) != len(down) or len(shared_gate) != 1:
        return None
    return MixedWeights(
        gate_up=gate_up,
        down=down,
        shared_gate_up=shared_gate_up,
        shared_down=shared_down,
        shared_gate_1H=shared_gate[0],
        first_expert=first_expert,
    )


def _stored(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, ...]:
    """The numbers of a matrix, and the scales that it has."""
    names = (name, f"{name}.{SCALES}", f"{name}.{ROW_SCALES}")
    return tuple(tensors[each] for each in names if each in tensors)
