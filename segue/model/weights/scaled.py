"""Quantised matrices whose inputs are quantised too, if they have many rows.

Which matrices: those with tensors of the name `INPUT_SCALES` beside them, which
`segue.model.weights.stored` makes if `[engine] quantize_activations` is set.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from segue.kernels.product import Epilogue
from segue.kernels.scaled_product import MOST_PLAIN_ROWS, routed_experts, scaled_product
from segue.model.weights.quantized import QuantizedExperts, QuantizedWeight


class ScaledWeight(QuantizedWeight):
    """T rows, K inputs. `input_scale`: as for `scaled_product`."""

    def __init__(self, stored: Sequence[Tensor], input_scale: Tensor | None) -> None:
        super().__init__(stored)
        self._input_scale = input_scale

    def rows(self, start: int, end: int) -> ScaledWeight:
        return ScaledWeight([part[start:end] for part in self._stored], self._input_scale)

    def matmul(self, x_TK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
        if len(x_TK) <= MOST_PLAIN_ROWS:
            return super().matmul(x_TK, epilogue)
        return scaled_product(x_TK, self._stored, self._input_scale, epilogue)


class ScaledExperts(QuantizedExperts):
    """`input_scales`: of the inputs of `gate_up` and of `down`."""

    def __init__(
        self,
        gate_up: Sequence[Tensor],
        down: Sequence[Tensor],
        first_expert: int,
        input_scales: tuple[Tensor | None, Tensor | None],
    ) -> None:
        super().__init__(gate_up, down, first_expert)
        self._input_scales = input_scales

    def routed(
        self, x_TH: Tensor, router_logits_TE: Tensor, *, experts_per_token: int
    ) -> tuple[Tensor, Tensor]:
        """As `segue.kernels.moe.routed_experts`."""
        if len(x_TH) <= MOST_PLAIN_ROWS:
            return super().routed(x_TH, router_logits_TE, experts_per_token=experts_per_token)
        return routed_experts(
            x_TH,
            router_logits_TE,
            self._gate_up,
            self._down,
            self._input_scales,
            experts_per_token=experts_per_token,
            first_expert=self._first_expert,
        )


def input_scale_of(scales_M: Tensor) -> Tensor | None:
    """One for all that a checkpoint has for the matrices that are stacked; None if it has none."""
    return scales_M.max() if len(scales_M) else None
