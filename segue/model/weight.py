"""Weight matrices as values: the model multiplies by them and never sees how they are stored.

To add another format of codes with scales, add it to `segue.kernels.quantized_product`. For
anything else add a class here, and a case to `weight_of` or `experts_of`. Both see all loaded
tensors: the numbers of a matrix under its name, and its scales under names that start with it.

T rows, K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, count, pairwise, takewhile
from typing import Protocol

import torch
from torch import Tensor

from segue.api.errors import InvalidCheckpoint
from segue.kernels import moe, quantized_product, scaled_product
from segue.kernels.mixed_experts import MixedWeights, are_alike
from segue.kernels.product import Epilogue, product
from segue.kernels.product.reference import finished
from segue.model.weights.stored import INPUT_SCALES, ROW_SCALES, SCALES


class Weight(Protocol):
    """A matrix [N, K]."""

    @property
    def num_rows(self) -> int: ...
    def rows(self, start: int, end: int) -> Weight:
        """The weight of outputs `start` to `end`, in the same memory."""
        ...

    def matmul(self, x_TK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
        """x Wᵀ, finished as `epilogue` says."""
        ...


class PlainWeight:
    """In the dtype of its inputs."""

    def __init__(self, weight_NK: Tensor) -> None:
        self._weight_NK = weight_NK

    @property
    def num_rows(self) -> int:
        return len(self._weight_NK)

    def rows(self, start: int, end: int) -> PlainWeight:
        return PlainWeight(self._weight_NK[start:end])

    def matmul(self, x_TK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
        return product(x_TK, self._weight_NK, epilogue)


class QuantizedWeight:
    """Codes, scales and possibly more, each with N rows: one of the formats of
    `segue.kernels.quantized_product`."""

    def __init__(self, stored: Sequence[Tensor]) -> None:
        self._stored = stored
        self.format = quantized_product.format_of(stored)

    @property
    def num_rows(self) -> int:
        return len(self._stored[0])

    def rows(self, start: int, end: int) -> QuantizedWeight:
        return QuantizedWeight([part[start:end] for part in self._stored])

    def matmul(self, x_TK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
        return quantized_product.quantized_product(x_TK, self._stored, epilogue)


class ScaledWeight(QuantizedWeight):
    """Its inputs are quantised too, if they have many rows."""

    def __init__(self, stored: Sequence[Tensor], input_scale: Tensor | None) -> None:
        """`input_scale`: see `scaled_product`."""
        super().__init__(stored)
        self._input_scale = input_scale

    def rows(self, start: int, end: int) -> ScaledWeight:
        return ScaledWeight([part[start:end] for part in self._stored], self._input_scale)

    def matmul(self, x_TK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
        if len(x_TK) <= scaled_product.MOST_PLAIN_ROWS:
            return super().matmul(x_TK, epilogue)
        return scaled_product.scaled_product(x_TK, self._stored, self._input_scale, epilogue)


class StackedWeight:
    """Matrices of several formats with the same inputs, stacked by rows."""

    def __init__(self, parts: Sequence[Weight]) -> None:
        self._parts = parts
        self._starts = [0, *accumulate(part.num_rows for part in parts)]

    @property
    def num_rows(self) -> int:
        return self._starts[-1]

    def rows(self, start: int, end: int) -> Weight:
        inside = [
            part.rows(max(start, first) - first, min(end, last) - first)
            for part, (first, last) in zip(self._parts, pairwise(self._starts), strict=True)
            if first < end and start < last
        ]
        return inside[0] if len(inside) == 1 else StackedWeight(inside)

    def matmul(self, x_TK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
        if epilogue is Epilogue.SILU_GATE:
            # Gates and ups may be in different parts.
            return finished(self.matmul(x_TK), epilogue)
        return torch.cat([part.matmul(x_TK, epilogue) for part in self._parts], dim=1)


class Experts:
    """The routed experts of a layer: all, or those from `first_expert` on that a rank has.

    T tokens, H hidden size, E experts.
    """

    def __init__(
        self,
        gate_up: Sequence[Tensor],
        down: Sequence[Tensor],
        first_expert: int,
        input_scales: tuple[Tensor | None, Tensor | None] | None = None,
    ) -> None:
        """`gate_up`, gate stacked on up, and `down`: the matrices, or codes with scales.
        `input_scales`: those of the inputs of both, if inputs of many rows are quantised too."""
        self._gate_up = gate_up
        self._down = down
        self._first_expert = first_expert
        self._input_scales = input_scales

    def routed(
        self, x_TH: Tensor, router_logits_TE: Tensor, *, experts_per_token: int
    ) -> tuple[Tensor, Tensor]:
        """See `segue.kernels.moe.routed_experts`."""
        inputs, gate_up, down = (x_TH, router_logits_TE), self._gate_up, self._down
        run: Callable[..., tuple[Tensor, Tensor]]
        if len(gate_up) == 1:
            run = partial(moe.routed_experts, *inputs, *gate_up, *down)
        elif self._input_scales is None or len(x_TH) <= scaled_product.MOST_PLAIN_ROWS:
            run = partial(quantized_product.routed_experts, *inputs, gate_up, down)
        else:
            run = partial(scaled_product.routed_experts, *inputs, gate_up, down, self._input_scales)
        return run(experts_per_token=experts_per_token, first_expert=self._first_expert)


def weight_of(tensors: Mapping[str, Tensor], name: str) -> Weight:
    """The matrix of this name among a model's tensors."""
    if name not in tensors:
        parts = takewhile(tensors.__contains__, (f"{name}.{number}" for number in count()))
        return StackedWeight([weight_of(tensors, part) for part in parts])
    stored = _stored(tensors, name)
    if len(stored) == 1:
        return PlainWeight(*stored)
    if (scales := tensors.get(f"{name}.{INPUT_SCALES}")) is not None:
        return ScaledWeight(stored, _input_scale(scales))
    return QuantizedWeight(stored)


def experts_of(tensors: Mapping[str, Tensor], at: str, *, first_expert: int = 0) -> Experts:
    """The experts whose matrices have names under `at`. `first_expert`: the first of them, if a
    rank has only some. Raises InvalidCheckpoint if only some matrices are quantised."""
    names = [f"{at}.{name}" for name in ("gate_up_proj", "down_proj")]
    gate_up, down = (_stored(tensors, name) for name in names)
    if (len(gate_up) == 1) != (len(down) == 1):
        raise InvalidCheckpoint(f"the experts under {at} must all be stored alike")
    match [tensors.get(f"{name}.{INPUT_SCALES}") for name in names]:
        case [Tensor() as of_gate_up, Tensor() as of_down]:
            scales = (_input_scale(of_gate_up), _input_scale(of_down))
            return Experts(gate_up, down, first_expert, scales)
    return Experts(gate_up, down, first_expert)


def mixed_of(
    tensors: Mapping[str, Tensor], at: str, *, first_expert: int = 0
) -> MixedWeights | None:
    """All experts of a layer, if the shared one is stored like the others, and its gate plain."""
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
    """The numbers of a matrix, and its scales, if it has any."""
    names = (name, f"{name}.{SCALES}", f"{name}.{ROW_SCALES}")
    return tuple(tensors[each] for each in names if each in tensors)


def _input_scale(scales_M: Tensor) -> Tensor | None:
    """One scale for all matrices of a stack; None if the checkpoint has none for them."""
    return scales_M.max() if len(scales_M) else None
