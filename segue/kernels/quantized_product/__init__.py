"""Products of rows with quantised weights: in FP8 or NVFP4, as checkpoints store them, or in int8
or int4."""

from __future__ import annotations

from collections.abc import Mapping

from segue.kernels import dispatch
from segue.kernels.quantized_product import reference
from segue.kernels.quantized_product.reference import Format, Product, format_of

__all__ = [
    "PRODUCTS",
    "Format",
    "format_of",
    "fp8_product",
    "int4_product",
    "int8_product",
    "nvfp4_product",
    "routed_experts",
]

fp8_product = dispatch.operator(reference.fp8_product, "triton", "native")
nvfp4_product = dispatch.operator(reference.nvfp4_product, "triton", "native")
int8_product = dispatch.operator(reference.int8_product, None, "native")
int4_product = dispatch.operator(reference.int4_product, None, "native")
routed_experts = dispatch.operator(reference.routed_experts, "triton_experts", "native")

PRODUCTS: Mapping[Format, Product] = {
    Format.INT8: int8_product,
    Format.FP8: fp8_product,
    Format.INT4: int4_product,
    Format.NVFP4: nvfp4_product,
}
