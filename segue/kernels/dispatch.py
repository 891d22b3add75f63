"""What computes an operator: its Triton kernels or its reference."""

from __future__ import annotations

from torch import Tensor


def takes_kernels(x: Tensor) -> bool:
    """Whether an operator on `x` uses Triton: if `x` is in GPU memory.

    This is the only place that decides it, so a test can run a whole model's kernels interpreted.
    """
    return x.is_cuda
