"""The product with a weight on a CPU, in the way that is fastest there.

Few rows are bound by reading the weight from memory, many by arithmetic. For both there is C++ and
PyTorch, and which is faster differs between processors: `choice` measures it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segue.kernels.native.library import operators
from segue.kernels.product import reference
from segue.kernels.product.choice import ProductPath, way_for
from segue.kernels.product.reference import Epilogue, finished

FEW_ROWS = 24
"""Up to here one pass over the weight serves all rows."""

_few = operators("few_rows", "ppplll")
_many = operators("many_rows", "pppllli")


def product(x_TK: Tensor, weight_NK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
    """As the reference's."""
    return finished(_product(x_TK, weight_NK), epilogue)


def _product(x_TK: Tensor, weight_NK: Tensor) -> Tensor:
    num_rows = x_TK.shape[0]
    way = way_for(x_TK.dtype, is_few=num_rows <= FEW_ROWS)
    is_odd = x_TK.dtype is torch.bfloat16 and x_TK.shape[1] % 2
    if way is ProductPath.TORCH or not num_rows or is_odd or not weight_NK.is_contiguous():
        return reference.product(x_TK, weight_NK)
    return product_by(way, x_TK.contiguous(), weight_NK)


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
