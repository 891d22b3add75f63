"""A mixture of experts as one operator: routed experts, and one that every token has."""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.mixed_experts import reference
from segue.kernels.mixed_experts.reference import MixedWeights, are_alike

__all__ = ["MixedWeights", "are_alike", "mixed_experts"]

mixed_experts = dispatch.operator(reference.mixed_experts, "triton")
