"""Matrices in codes with scales, and matrices of several formats that are stacked.

T rows, K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor

from segue.kernels.product import Epilogue
from segue.kernels.product.epilogue import finished
from segue.kernels.quantized_product import PRODUCTS, format_of, routed_experts


class Matrix(Protocol):
    @property
    def num_rows(self) -> int: ...
    def rows(self, start: int, end: int) -> Matrix: ...
    def matmul(self, x_TK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor: ...


class QuantizedWeight:
    """Codes, scales and perhaps more, each with N rows: one of the formats of
    `segue.kernels.quantized_product`."""

    def __init__(self, stored: Sequence[Tensor]) -> None:
        self._stored = stored
        self.format = format_of(stored)

    @property
    def num_rows(self) -> int:
        return len(self._stored[0])

    def rows(self, start: int, end: int) -> QuantizedWeight:
        return QuantizedWeight([part[start:end] for part in self._stored])

    def matmul(self, x_TK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
        return PRODUCTS[self.format](x_TK, *self._stored, epilogue=epilogue)


class StackedWeight:
    """Matrices with the same inputs, one below the other."""

    def __init__(self, parts: Sequence[Matrix]) -> None:
        self._parts = parts
        self._starts = [0, *accumulate(part.num_rows for part in parts)]

    @property
    def num_rows(self) -> int:
        return self._starts[-1]

    def rows(self, start: int, end: int) -> Matrix:
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


class QuantizedExperts:
    """The experts of a layer, of each stack of matrices the codes and scales: all, or those from
    `first_expert` on that a rank has."""

    def __init__(
        self, gate_up: Sequence[Tensor], down: Sequence[Tensor], first_expert: int
    ) -> None:
        self._gate_up = gate_up
        self._down = down
        self._first_expert = first_expert

    def routed(
        self, x_TH: Tensor, router_logits_TE: Tensor, *, experts_per_token: int
    ) -> tuple[Tensor, Tensor]:
        """As `segue.kernels.moe.routed_experts`."""
        return routed_experts(
            x_TH,
            router_logits_TE,
            self._gate_up,
            self._down,
            experts_per_token=experts_per_token,
            first_expert=self._first_expert,
        )
