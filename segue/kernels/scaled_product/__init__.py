"""Products of many rows with weights in FP8 or NVFP4, whose inputs are quantised too."""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.scaled_product import reference

__all__ = ["MOST_PLAIN_ROWS", "routed_experts", "scaled_product"]

MOST_PLAIN_ROWS = 128
"""Up to here inputs are never quantised: a decode step's tokens depend on nothing else in it."""

scaled_product = dispatch.operator(reference.scaled_product, "ways")
routed_experts = dispatch.operator(reference.routed_experts, "ways")
