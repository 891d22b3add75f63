"""Partial rotary embedding in plain PyTorch.

T packed tokens, N heads, X head dimension, R rotated dimensions.

Qwen3.5's rotation is multi-axis and interleaved: each frequency takes its angle from one of three
positions (time, height, width). A text token has the same position on all three axes, so every
frequency gets the same angle from any axis, and the rotation is the plain one. Images would need
more.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_frequencies(rotary_dim: int, *, theta: float) -> Tensor:
    """Radians per token [R] in float32, on the CPU: for the first half of the R dimensions negated,
    for the second half positive. Dimension r is rotated with dimension R / 2 + r."""
    exponents = torch.arange(0, rotary_dim, 2).float() / rotary_dim
    # The same operations as in the checkpoints' training: a difference in a frequency's last bit is
    # 0.03 radians after a million tokens.
    frequencies = 1.0 / theta**exponents
    return torch.cat([-frequencies, frequencies])


def rotary_tables(positions_T: Tensor, frequencies_R: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, 1, R] in float32 of every position's angles, for all heads and layers
    of a pass. The first half of the sines is negated, as in the frequencies."""
    angles_T1R = positions_T.view(-1, 1, 1) * frequencies_R
    return angles_T1R.cos(), angles_T1R.sin()


def rotate_(x_TNX: Tensor, cos_T1R: Tensor, sin_T1R: Tensor) -> Tensor:
    """`x` [T, N, X], float32, with its first R dimensions rotated in place."""
    rotary_dim = cos_T1R.shape[-1]
    x_TNR = x_TNX[..., :rotary_dim]
    partners_TNR = x_TNR.roll(rotary_dim // 2, dims=-1)
    x_TNR.mul_(cos_T1R).addcmul_(partners_TNR, sin_T1R)
    return x_TNX
