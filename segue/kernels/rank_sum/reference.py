"""The sum over ranks in PyTorch."""

from __future__ import annotations

from torch import Tensor


def sum_parts(parts: Tensor) -> Tensor:
    """`parts` [R, …] of R ranks → their sum […] in the same dtype.

    Added in float32 in the order of the ranks and rounded once: every rank gets the same bits, and
    an element's do not depend on what else is summed.
    """
    total = parts[0].float()
    for part in parts[1:]:
        total = total + part.float()
    return total.to(parts.dtype)
