"""The two kinds of MLP: a single gated MLP, or routed experts plus a shared one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from segue.kernels.mixed_experts import mixed_experts
from segue.kernels.moe import combine_experts
from segue.kernels.product import Epilogue
from segue.kernels.product.tiling import FEW_ROWS
from segue.kernels.side_stream import SideStream
from segue.model.config import ModelConfig, MoeConfig
from segue.model.weight import experts_of, mixed_of, weight_of


class GatedMlp:
    """T tokens, H hidden size."""

    def __init__(self, weights: Mapping[str, Tensor], at: str) -> None:
        self._gate_up_proj = weight_of(weights, f"{at}.gate_up_proj")
        self._down_proj = weight_of(weights, f"{at}.down_proj")

    def __call__(self, x_TH: Tensor) -> Tensor:
        return self._down_proj.matmul(self._gate_up_proj.matmul(x_TH, Epilogue.SILU_GATE))


class MixtureOfExperts:
    """T tokens, H hidden size, E experts, A experts of a token.

    For few tokens the shared expert is one more expert of the same operator, if it is stored like
    the others. Otherwise it is computed in parallel, since it does not depend on routing.
    """

    def __init__(self, config: MoeConfig, weights: Mapping[str, Tensor], at: str) -> None:
        self._experts_per_token = config.experts_per_token
        self._router = weight_of(weights, f"{at}.router")
        first_expert = config.experts.start
        self._experts = experts_of(weights, f"{at}.experts", first_expert=first_expert)
        self._mixed = mixed_of(weights, at, first_expert=first_expert)
        self._shared = GatedMlp(weights, f"{at}.shared_expert")
        self._shared_gate = weight_of(weights, f"{at}.shared_gate")
        self._side = SideStream(weights["embed"].device)

    def __call__(self, x_TH: Tensor) -> Tensor:
        if self._mixed is not None and len(x_TH) <= FEW_ROWS:
            logits_TE = self._router.matmul(x_TH)
            return mixed_experts(
                x_TH, logits_TE, self._mixed, experts_per_token=self._experts_per_token
            )
        with self._side.fork():
            shared_TH = self._shared(x_TH)
            shared_gate_T1 = self._shared_gate.matmul(x_TH)
        y_TAH, weights_TA = self._experts.routed(
            x_TH, self._router.matmul(x_TH), experts_per_token=self._experts_per_token
        )
        self._side.join()
        return combine_experts(y_TAH, weights_TA, shared_TH, shared_gate_T1)


def mlp_of(
    config: ModelConfig, weights: Mapping[str, Tensor], at: str
) -> GatedMlp | MixtureOfExperts:
    """The MLP that this model's layers have."""
    if isinstance(config.mlp, MoeConfig):
        return MixtureOfExperts(config.mlp, weights, at)
    return GatedMlp(weights, at)
