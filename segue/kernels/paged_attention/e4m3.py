"""Keys and values of eight bits: a sign, four bits of exponent, three of mantissa, and a scale.

A code stands for its number times the scale of all keys, or of all values, of a layer. Codes are
exact in every dtype of activations, and scales multiply scores and outputs, so reading loses
nothing: rounding to a code is the only loss, and happens once, when a token is stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
"""There is no infinity: what is larger is stored as this."""

Scales = tuple[float, float]
"""Of keys, and of values."""
UNSCALED: Scales = (1.0, 1.0)


def stored(x: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """`x` as pages of this dtype have it; the scale is for codes only."""
    if dtype is not E4M3:
        return x.to(dtype)
    return (x.float() * (1 / scale)).clamp(-LARGEST, LARGEST).to(E4M3)


def as_bytes(pages: Tensor) -> Tensor:
    """Codes as bytes, which every operation takes; other pages as they are."""
    return pages.view(torch.uint8) if pages.dtype is E4M3 else pages
