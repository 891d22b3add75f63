"""Numbers as tensors, made once.

PyTorch makes a tensor of a Python number in every call it is an operand of, and converts it. For
a few rows on a CPU that costs more than the operation.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(typed=True)
def constant(value: float, device: torch.device) -> Tensor:
    """`value` in float32, or int64 where it is an integer, without dimensions. Only to be read."""
    # Usable in and outside of inference mode, whoever asks first.
    with torch.inference_mode(False):
        return torch.tensor(value, device=device)


@lru_cache
def indexes(values: tuple[int, ...], device: torch.device) -> Tensor:
    """`values` in int64. Only to be read."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)
