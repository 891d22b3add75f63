"""The ways of multiplying with a weight on a CPU."""

from __future__ import annotations

from enum import StrEnum

from torch import Tensor

from segue.kernels.native.library import operators
from segue.kernels.product import reference

_few = operators("few_rows", "ppplll")
_many = operators("many_rows", "pppllli")


class ProductPath(StrEnum):
    STREAMED = "streamed"
    """C++ that reads each weight once, for few rows."""
    PAIRS = "pairs"
    """C++ for many rows with the processor's bfloat16 dot product."""
    FLOATS = "floats"
    """C++ for many rows in float32; a bfloat16 weight is converted block by block."""
    TORCH = "torch"


def product_by(way: ProductPath, x_TK: Tensor, weight_NK: Tensor) -> Tensor:
    """In this way, whatever is faster. Both contiguous; K is even for many rows in bfloat16."""
    if way is ProductPath.TORCH:
        return reference.product(x_TK, weight_NK)
    num_outputs, num_inputs = weight_NK.shape
    num_rows = x_TK.shape[0]
    out_TN = x_TK.new_empty(num_rows, num_outputs)
    pointers = (x_TK.data_ptr(), weight_NK.data_ptr(), out_TN.data_ptr())
    sizes = (num_rows, num_outputs, num_inputs)
    if way is ProductPath.STREAMED:
        _few(x_TK.dtype)(*pointers, *sizes)
    else:
        _many(x_TK.dtype)(*pointers, *sizes, way is ProductPath.PAIRS)
    return out_TN
