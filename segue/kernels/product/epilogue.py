"""What becomes of a product before it is stored.

A kernel applies it to its sums in float32. Other products are finished afterwards, from a result
that was rounded to the inputs' dtype.
"""

from __future__ import annotations

from enum import Enum

from torch import Tensor

from segue.kernels.gates import silu_gate


class Epilogue(Enum):
    NONE = "none"
    """[T, N] in the dtype of the inputs."""
    SILU_GATE = "silu_gate"
    """The first half of the weight's outputs are gates, the second what they gate: silu(gate) · up
    [T, N / 2] in the dtype of the inputs."""
    FLOAT32 = "float32"
    """[T, N] in float32, for logits: in bfloat16 near-ties become ties."""


def finished(out_TN: Tensor, epilogue: Epilogue) -> Tensor:
    """The result, from a product in the dtype of its inputs."""
    match epilogue:
        case Epilogue.SILU_GATE:
            return silu_gate(out_TN)
        case Epilogue.FLOAT32:
            return out_TN.float()
        case Epilogue.NONE:
            return out_TN
