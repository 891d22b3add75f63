"""RMS norm in plain PyTorch. … any leading dimensions, H the width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    normed = _normed(x.float(), eps)
    return torch.addcmul(normed, normed, weight_H.float()).to(x.dtype)


def gated_rms_norm(x: Tensor, gate: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    """x / rms(x) · weight · silu(gate), computed in float32.

    `x` and `gate` [..., H]; the result has the dtype of `gate`. This weight is stored as it is.
    """
    normed = _normed(x.float(), eps).mul_(weight_H.float())
    return normed.mul_(F.silu(gate.float())).to(gate.dtype)


def _normed(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True).add_(eps))
