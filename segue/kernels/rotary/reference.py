"""Partial rotary embedding in plain PyTorch.

T packed tokens, N heads, D head dimension, R half of the rotated dimensions.

Qwen3.5's rotation is multi-axis and interleaved: each frequency takes its angle from one of three
positions (time, height, width). A text token has the same position on all three, so whichever axis
a frequency reads, the angle is the same, and the rotation is the plain one. Images would need more.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_tables(positions_T: Tensor, *, rotary_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, R] in float32 of every position's angles."""
    exponents_R = torch.arange(0, rotary_dim, 2, device=positions_T.device).float() / rotary_dim
    angles_TR = torch.outer(positions_T.float(), theta**-exponents_R)
    return angles_TR.cos(), angles_TR.sin()


def apply_rotary(x_TND: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """A copy of `x` whose first 2R dimensions are rotated, in float32; dtype as given.

    Dimension r turns with dimension R + r; dimensions from 2R on are copied.
    """
    half = cos_TR.shape[-1]
    cos_T1R, sin_T1R = cos_TR.unsqueeze(1), sin_TR.unsqueeze(1)
    first, second = x_TND[..., :half].float(), x_TND[..., half : 2 * half].float()
    rotated_TND = torch.empty_like(x_TND, memory_format=torch.contiguous_format)
    rotated_TND[..., :half] = first * cos_T1R - second * sin_T1R
    rotated_TND[..., half : 2 * half] = second * cos_T1R + first * sin_T1R
    rotated_TND[..., 2 * half :] = x_TND[..., 2 * half :]
    return rotated_TND
