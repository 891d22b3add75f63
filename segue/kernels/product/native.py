"""The product with a weight on a CPU, in the way that is fastest there.

Few rows are bound by reading the weight from memory, many by arithmetic. For both there is C++ and
PyTorch, and which is faster differs between processors: `choice` measures it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segue.kernels.product import reference
from segue.kernels.product.choice import way_for
from segue.kernels.product.paths import ProductPath, product_by
from segue.kernels.product.reference import Epilogue, finished

FEW_ROWS = 24
"""Up to here one pass over the weight serves all rows."""


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
