"""The product with a weight in plain PyTorch, on a GPU too, and what follows it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

from segue.kernels.gates import silu_gate

Stored: TypeAlias = Sequence[Tensor]
"""A weight, or one for each expert: its numbers alone, or codes and scales as
`segue.kernels.quantized_product` has them."""


class Epilogue(Enum):
    """The last step of a product. A kernel applies it to its sums in float32; other products are
    finished afterwards, from a result that was rounded to the inputs' dtype."""

    NONE = "none"
    """[T, N] in the dtype of the inputs."""
    SILU_GATE = "silu_gate"
    """The first half of the weight's outputs are gates, the second the values to gate: silu(gate) ·
    up [T, N / 2] in the dtype of the inputs."""
    FLOAT32 = "float32"
    """[T, N] in float32, for logits: in bfloat16 near-ties become ties."""


def product(x_TK: Tensor, weight_NK: Tensor, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
    """x Wᵀ, summed in float32 and finished; of T rows, K inputs and N outputs, all of one dtype."""
    return finished(F.linear(x_TK, weight_NK), epilogue)


def finished(out_TN: Tensor, epilogue: Epilogue) -> Tensor:
    """The result, from a product in the dtype of its inputs."""
    match epilogue:
        case Epilogue.SILU_GATE:
            return silu_gate(out_TN)
        case Epilogue.FLOAT32:
            return out_TN.float()
        case Epilogue.NONE:
            return out_TN
