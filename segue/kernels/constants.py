"""Constants as tensors, made once.

PyTorch makes a tensor from a Python number in every call that has it as an operand, and converts
it. For a few rows on a CPU that costs more than the operation itself.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(typed=True)
def constant(value: float, device: torch.device) -> Tensor:
    """`value` as a scalar tensor: int64 for an integer, else float32. Read-only."""
    # Usable inside and outside inference mode, in whichever it is made.
    with torch.inference_mode(False):
        return torch.tensor(value, device=device)


@lru_cache
def indexes(values: tuple[int, ...], device: torch.device) -> Tensor:
    """`values` in int64. Read-only."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)
