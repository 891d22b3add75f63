"""RMS norm in plain PyTorch. … any leading dimensions, H the width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    normed = _normed(x.float(), eps)
    return torch.addcmul(normed, normed, weight_H.float()).to(x.dtype)


def add_rms_norm(x: Tensor, y: Tensor, weight_H: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    total = x + y
    return total, rms_norm(total, weight_H, eps=eps)


def join_rms_norms(
    x: Tensor, y: Tensor, x_weight_H: Tensor, y_weight_H: Tensor, *, eps: float
) -> Tensor:
    return torch.cat([rms_norm(x, x_weight_H, eps=eps), rms_norm(y, y_weight_H, eps=eps)], dim=-1)


def gated_rms_norm(x: Tensor, gate: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    normed = _normed(x.float(), eps).mul_(weight_H.float())
    return normed.mul_(F.silu(gate.float())).to(gate.dtype)


def _normed(x: Tensor, eps: float) -> Tensor:
    # `x.square()` takes a detour through a general power.
    return x * (x * x).mean(-1, keepdim=True).add_(eps).rsqrt_()
