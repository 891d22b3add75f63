"""The two MLPs: one gated MLP, or routed experts beside a shared one."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from segue.kernels.gates import silu_gate
from segue.kernels.moe import combine_experts, routed_experts
from segue.kernels.side_stream import SideStream
from segue.model.config import ModelConfig, MoeConfig
from segue.model.linear import Linear


class GatedMlp:
    """T tokens, H hidden size."""

    def __init__(self, weights: Mapping[str, Tensor], at: str) -> None:
        self._gate_up_proj = Linear(weights[f"{at}.gate_up_proj"])
        self._down_proj = Linear(weights[f"{at}.down_proj"])

    def __call__(self, x_TH: Tensor) -> Tensor:
        return self._down_proj(silu_gate(self._gate_up_proj(x_TH)))


class MixtureOfExperts:
    """T tokens, H hidden size, E experts, A experts of a token.

    The shared expert depends on nothing that routing finds out, so it is computed beside it.
    """

    def __init__(self, config: MoeConfig, weights: Mapping[str, Tensor], at: str) -> None:
        self._experts_per_token = config.experts_per_token
        self._router = weights[f"{at}.router"]
        self._gate_up_proj = weights[f"{at}.experts.gate_up_proj"]
        self._down_proj = weights[f"{at}.experts.down_proj"]
        self._shared = GatedMlp(weights, f"{at}.shared_expert")
        self._shared_gate = weights[f"{at}.shared_gate"]
        self._side = SideStream(self._router.device)

    def __call__(self, x_TH: Tensor) -> Tensor:
        with self._side.fork():
            shared_TH = self._shared(x_TH)
            shared_gate_T1 = F.linear(x_TH, self._shared_gate)
        y_TAH, weights_TA = routed_experts(
            x_TH,
            F.linear(x_TH, self._router),
            self._gate_up_proj,
            self._down_proj,
            experts_per_token=self._experts_per_token,
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
