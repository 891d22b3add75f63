"""Products with a weight matrix, fast for few rows too.

On a CPU a product of one row reads the weight at the memory's speed, and one of many rows computes
at the cores' speed. In between, where small batches and verified drafts are, the plain float32
product costs two to three times one row. oneDNN's, on a weight that it has arranged beforehand,
costs 1.1 to 1.6 times one row; for a single row and for many it gains nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FEW_ROWS = range(2, 17)
MIN_ARRANGED = 1 << 19
"""Numbers in a matrix, 2 MiB: for smaller ones the plain product of few rows is as fast, and
oneDNN's calls take some 20 µs longer."""


class Linear:
    """T rows, K inputs, N outputs."""

    def __init__(self, weight_NK: Tensor) -> None:
        self._weight_NK = weight_NK
        self._is_worth_arranging = (
            weight_NK.device.type == "cpu"
            and weight_NK.dtype is torch.float32
            and weight_NK.numel() >= MIN_ARRANGED
            and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        )
        self._arranged: Tensor | None = None

    def __call__(self, x_TK: Tensor) -> Tensor:
        """x Wᵀ [T, N]."""
        if self._is_worth_arranging and len(x_TK) in FEW_ROWS:
            return self._of_few(x_TK)
        return F.linear(x_TK, self._weight_NK)

    def _of_few(self, x_TK: Tensor) -> Tensor:
        if self._arranged is None:
            # A second copy of the weight: made when it is first of use, and in many workers never.
            self._arranged = torch.ops.mkldnn._reorder_linear_weight(self._weight_NK, None)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x_TK, self._arranged, None, "none", [], ""
        )
        return product
