"""Root-mean-square norm over the last dimension: the model's norm, alone and fused with adjacent
operations, and the gated norm of GDN layers."""

from __future__ import annotations

from torch import Tensor

from segue.kernels import dispatch
from segue.kernels.rms_norm import reference

__all__ = ["add_rms_norm", "gated_rms_norm", "join_rms_norms", "rms_norm"]


def rms_norm(x: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    """x / rms(x) · (1 + weight) over the last dimension, computed in float32.

    `x` [..., H] of any dtype; the result has its shape and dtype. Checkpoints store this weight as
    an offset from one.
    """
    if dispatch.takes_kernels(x):
        from segue.kernels.rms_norm import triton

        return triton.rms_norm(x, weight_H, eps=eps)
    return reference.rms_norm(x, weight_H, eps=eps)


def add_rms_norm(x: Tensor, y: Tensor, weight_H: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """x + y, and its `rms_norm`: add to the residual stream, and norm it for the next reader.

    `x` and `y` [..., H] and both results have the same dtype. The norm is of the returned sum,
    which is rounded to that dtype.
    """
    if dispatch.takes_kernels(x):
        from segue.kernels.rms_norm import triton

        return triton.add_rms_norm(x, y, weight_H, eps=eps)
    return reference.add_rms_norm(x, y, weight_H, eps=eps)


def join_rms_norms(
    x: Tensor, y: Tensor, x_weight_H: Tensor, y_weight_H: Tensor, *, eps: float
) -> Tensor:
    """`rms_norm` of `x` and of `y`, each with its weight, side by side: [..., 2 H].

    `x` and `y` [..., H] and the result have the same dtype.
    """
    if dispatch.takes_kernels(x):
        from segue.kernels.rms_norm import triton

        return triton.join_rms_norms(x, y, x_weight_H, y_weight_H, eps=eps)
    return reference.join_rms_norms(x, y, x_weight_H, y_weight_H, eps=eps)


def gated_rms_norm(x: Tensor, gate: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    """x / rms(x) · weight · silu(gate) over the last dimension, computed in float32.

    `x` and `gate` [T, N, H], each of any dtype; the result has the dtype of `gate`. `gate` may be
    columns of a wider tensor: a token's N heads must be contiguous, tokens need not. This weight is
    not stored as an offset.
    """
    if dispatch.takes_kernels(x):
        from segue.kernels.rms_norm import triton_gated

        return triton_gated.gated_rms_norm(x, gate, weight_H, eps=eps)
    return reference.gated_rms_norm(x, gate, weight_H, eps=eps)
