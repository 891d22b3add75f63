"""Rotary position embedding of the leading part of each head."""

from __future__ import annotations

from torch import Tensor

from segue.kernels.rotary import reference

__all__ = ["rotary_frequencies", "rotary_tables", "rotate_"]


def rotary_frequencies(rotary_dim: int, *, theta: float) -> Tensor:
    """Radians per token [R] in float32, on the CPU: for the first half of the R dimensions negated,
    for the second half positive. Dimension r is rotated with dimension R / 2 + r."""
    return reference.rotary_frequencies(rotary_dim, theta=theta)


def rotary_tables(positions_T: Tensor, frequencies_R: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, 1, R] in float32 of every position's angles, for all heads and layers
    of a pass. The first half of the sines is negated, as in the frequencies."""
    return reference.rotary_tables(positions_T, frequencies_R)


def rotate_(x_TNX: Tensor, cos_T1R: Tensor, sin_T1R: Tensor) -> Tensor:
    """`x` [T, N, X], float32, with its first R dimensions rotated in place."""
    return reference.rotate_(x_TNX, cos_T1R, sin_T1R)
