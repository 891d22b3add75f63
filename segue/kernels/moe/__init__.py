"""Mixture of experts: route tokens to a few experts; sum their outputs and a shared expert's."""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.moe import reference

__all__ = ["combine_experts", "routed_experts"]

routed_experts = dispatch.operator(reference.routed_experts, "triton", "native")
combine_experts = dispatch.operator(reference.combine_experts, "triton")
