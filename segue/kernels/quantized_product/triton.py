"""Products with quantised weights in Triton: see `segue.kernels.product.triton_sum`."""

from __future__ import annotations

from torch import Tensor

from segue.kernels.moe import triton_experts
from segue.kernels.product.reference import Epilogue, Stored
from segue.kernels.product.tiling import QUANTIZED, QUANTIZED_ROWS
from segue.kernels.product.triton import pointers, product_by_tiles
from segue.kernels.quantized_product import reference
from segue.kernels.quantized_product.reference import Format, format_of

MOST_ROWS = 128
"""Beyond, converting the weight once costs less than converting it for each tile of rows."""


def quantized_product(x_TK: Tensor, stored: Stored, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
    """As the reference's."""
    if len(x_TK) > MOST_ROWS or format_of(stored) not in (Format.FP8, Format.NVFP4):
        return reference.quantized_product(x_TK, stored, epilogue)
    return product_by_tiles(x_TK, pointers(stored), epilogue, QUANTIZED.options(QUANTIZED_ROWS))


routed_experts = triton_experts.routed_experts
