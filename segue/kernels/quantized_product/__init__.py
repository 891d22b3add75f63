"""Products of rows with weights in FP8 or NVFP4."""

from __future__ import annotations

from segue.kernels.quantized_product.reference import fp8_product, nvfp4_product

__all__ = ["fp8_product", "nvfp4_product"]
