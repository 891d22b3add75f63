"""The product with a weight in plain PyTorch, on a GPU too."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def product(x_TK: Tensor, weight_NK: Tensor) -> Tensor:
    """x Wᵀ [T, N], summed in float32; of T rows, K inputs and N outputs, all of one dtype."""
    return F.linear(x_TK, weight_NK)
