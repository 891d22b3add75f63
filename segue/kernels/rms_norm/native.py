"""Norms on a CPU, each in one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor

from segue.kernels.native.library import DTYPES, UnsuitableInputs, are_plain, operators

_norm = operators("add_rms_norm", "ppppp" + "llll" + "f")
_gated = operators("gated_rms_norm", "pppp" + "llll" + "f")


def rms_norm(x: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    if not _fits(x, weight_H):
        raise UnsuitableInputs
    out = torch.empty_like(x)
    _run(x, None, weight_H, None, out, eps)
    return out


def add_rms_norm(x: Tensor, y: Tensor, weight_H: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    if not _fits(x, weight_H) or not are_plain(x.dtype, y):
        raise UnsuitableInputs
    total, out = torch.empty_like(x), torch.empty_like(x)
    _run(x, y, weight_H, total, out, eps)
    return total, out


def join_rms_norms(
    x: Tensor, y: Tensor, x_weight_H: Tensor, y_weight_H: Tensor, *, eps: float
) -> Tensor:
    if not _fits(x, x_weight_H) or not _fits(y, y_weight_H):
        raise UnsuitableInputs
    width = x.shape[-1]
    out = torch.empty(*x.shape[:-1], 2 * width, dtype=x.dtype)
    _run(x, None, x_weight_H, None, out, eps)
    _run(y, None, y_weight_H, None, out[..., width:], eps)
    return out


def gated_rms_norm(x: Tensor, gate: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    # Norms of float32 may have gates of any dtype.
    is_served = gate.dtype in DTYPES
    has_heads = x.ndim == 3 and gate.stride()[1:] == (x.shape[2], 1)
    if not is_served or not has_heads or not are_plain(torch.float32, x, weight_H):
        raise UnsuitableInputs
    num_tokens, num_heads, width = x.shape
    out = torch.empty(x.shape, dtype=gate.dtype)
    _gated(gate.dtype)(
        x.data_ptr(),
        gate.data_ptr(),
        weight_H.data_ptr(),
        out.data_ptr(),
        num_tokens,
        num_heads,
        width,
        gate.stride(0),
        eps,
    )
    return out


def _run(
    x: Tensor, y: Tensor | None, weight_H: Tensor, total: Tensor | None, out: Tensor, eps: float
) -> None:
    """`out` may be columns of a wider tensor."""
    width = x.shape[-1]
    _norm(x.dtype)(
        x.data_ptr(),
        None if y is None else y.data_ptr(),
        weight_H.data_ptr(),
        None if total is None else total.data_ptr(),
        out.data_ptr(),
        x.numel() // width,
        width,
        width,
        out.stride(-2) if out.ndim > 1 else width,
        eps,
    )


def _fits(x: Tensor, weight_H: Tensor) -> bool:
    return x.is_contiguous() and are_plain(torch.float32, weight_H)
