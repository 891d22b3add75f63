"""Root-mean-square norm over the last dimension: the model's, and the gated one of GDN layers."""

from __future__ import annotations

from torch import Tensor

from segue.kernels.rms_norm import reference

__all__ = ["gated_rms_norm", "rms_norm"]

gated_rms_norm = reference.gated_rms_norm


def rms_norm(x: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    """x / rms(x) · (1 + weight) over the last dimension, computed in float32.

    `x` [..., H] of any dtype; the result has its shape and dtype. Checkpoints store this weight as
    an offset from one.
    """
    if x.is_cuda:
        from segue.kernels.rms_norm import triton

        return triton.rms_norm(x, weight_H, eps=eps)
    return reference.rms_norm(x, weight_H, eps=eps)
