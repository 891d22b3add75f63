"""RMS norm in plain PyTorch. … any leading dimensions, H the width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels.constants import constant


def rms_norm(x: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    """x / rms(x) · (1 + weight) over the last dimension, computed in float32.

    `x` [..., H] of any dtype; the result has its shape and dtype. Checkpoints store this weight as
    an offset from one.
    """
    normed = _normed(x.float(), eps)
    return torch.addcmul(normed, normed, weight_H.float()).to(x.dtype)


def add_rms_norm(x: Tensor, y: Tensor, weight_H: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """x + y, and its `rms_norm`: add to the residual stream, and norm it for the next reader.

    `x` and `y` [..., H] and both results have the same dtype. The norm is of the returned sum,
    which is rounded to that dtype.
    """
    total = x + y
    return total, rms_norm(total, weight_H, eps=eps)


def join_rms_norms(
    x: Tensor, y: Tensor, x_weight_H: Tensor, y_weight_H: Tensor, *, eps: float
) -> Tensor:
    """`rms_norm` of `x` and of `y`, each with its weight, side by side: [..., 2 H].

    `x` and `y` [..., H] and the result have the same dtype.
    """
    normed = _normed(torch.stack((x, y), dim=-2).float(), eps)
    weight_2H = torch.stack((x_weight_H, y_weight_H)).float()
    return torch.addcmul(normed, normed, weight_2H).to(x.dtype).flatten(-2)


def gated_rms_norm(x: Tensor, gate: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    """x / rms(x) · weight · silu(gate) over the last dimension, computed in float32.

    `x` and `gate` [T, N, H], each of any dtype; the result has the dtype of `gate`. `gate` may be
    columns of a wider tensor: a token's N heads must be contiguous, tokens need not. This weight is
    not stored as an offset.
    """
    normed = _normed(x.float(), eps).mul_(weight_H.float())
    return normed.mul_(F.silu(gate.float())).to(gate.dtype)


def _normed(x: Tensor, eps: float) -> Tensor:
    # `x.square()` uses a general power, and `mean` divides by a Python number: both are slower.
    squares = (x * x).sum(-1, keepdim=True)
    return x * torch.add(constant(eps, x.device), squares, alpha=1 / x.shape[-1]).rsqrt_()
