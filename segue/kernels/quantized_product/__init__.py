"""Products of rows with weights in FP8 or NVFP4."""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.quantized_product import reference

__all__ = ["fp8_product", "nvfp4_product", "routed_experts"]

fp8_product = dispatch.operator(reference.fp8_product, "triton")
nvfp4_product = dispatch.operator(reference.nvfp4_product, "triton")
routed_experts = dispatch.operator(reference.routed_experts, "triton_experts")
