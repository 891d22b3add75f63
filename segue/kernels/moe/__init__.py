"""Mixture of experts: route each token to a few experts and sum their weighted outputs."""

from segue.kernels.moe.reference import routed_experts

__all__ = ["routed_experts"]
