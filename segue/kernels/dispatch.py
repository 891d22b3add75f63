"""Who computes an operator: its kernels in Triton, or its reference."""

from __future__ import annotations

from torch import Tensor


def takes_kernels(x: Tensor) -> bool:
    """Whether an operator of `x` goes to Triton: where the memory is a GPU's.

    Asked in this one place, so that a test can have a whole model's kernels interpreted.
    """
    return x.is_cuda
