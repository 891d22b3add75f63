"""RMS norm in plain PyTorch. … any leading dimensions, H the width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels.constants import constant


def rms_norm(x: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    normed = _normed(x.float(), eps)
    return torch.addcmul(normed, normed, weight_H.float()).to(x.dtype)


def add_rms_norm(x: Tensor, y: Tensor, weight_H: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    total = x + y
    return total, rms_norm(total, weight_H, eps=eps)


def join_rms_norms(
    x: Tensor, y: Tensor, x_weight_H: Tensor, y_weight_H: Tensor, *, eps: float
) -> Tensor:
    normed = _normed(torch.stack((x, y), dim=-2).float(), eps)
    weight_2H = torch.stack((x_weight_H, y_weight_H)).float()
    return torch.addcmul(normed, normed, weight_2H).to(x.dtype).flatten(-2)


def gated_rms_norm(x: Tensor, gate: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    normed = _normed(x.float(), eps).mul_(weight_H.float())
    return normed.mul_(F.silu(gate.float())).to(gate.dtype)


def _normed(x: Tensor, eps: float) -> Tensor:
    # `x.square()` uses a general power, and `mean` divides by a Python number: both are slower.
    squares = (x * x).sum(-1, keepdim=True)
    return x * torch.add(constant(eps, x.device), squares, alpha=1 / x.shape[-1]).rsqrt_()
