"""Products of rows with quantised weights: in FP8 or NVFP4, as checkpoints store them, or in int8
or int4."""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.quantized_product import reference
from segue.kernels.quantized_product.reference import Format, format_of

__all__ = ["Format", "format_of", "quantized_product", "routed_experts"]

quantized_product = dispatch.operator(reference.quantized_product, "triton", "native")
routed_experts = dispatch.operator(reference.routed_experts, "triton", "native")
