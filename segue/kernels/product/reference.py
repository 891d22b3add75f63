"""The product with a weight in plain PyTorch, on a GPU too."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from segue.kernels.product.epilogue import Epilogue, finished


def product(x_TK: Tensor, weight_NK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
    """x Wᵀ, summed in float32 and finished; of T rows, K inputs and N outputs, all of one dtype."""
    return finished(F.linear(x_TK, weight_NK), epilogue)
