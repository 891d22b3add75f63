"""RMS norm in Triton, alone, after an addition, or of two joined tensors: a program for each row,
which is read once.

H is the width of a row, BLOCK_H the next power of two.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.dependent_launch import signal, wait

MAX_WIDTH = 16384
"""One program holds a row in registers."""


@triton.jit
def _early_weight(weight_ptr, columns_H, inside_H, IS_DEPENDENT: tl.constexpr):
    """Starts a kernel: the weight on its way while earlier kernels run."""
    signal(IS_DEPENDENT)
    weight_H = tl.load(weight_ptr + columns_H, mask=inside_H, other=0.0).to(tl.float32)
    wait(IS_DEPENDENT)
    return weight_H


@triton.jit
def _normed(x_H, weight_H, width, eps):
    scale = tl.rsqrt(tl.sum(x_H * x_H) / width + eps)
    return x_H * scale * (1.0 + weight_H)


@triton.jit
def rms_norm_kernel(
    x_ptr,
    weight_ptr,
    out_ptr,
    width,
    eps,
    BLOCK_H: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns_H = tl.arange(0, BLOCK_H)
    inside_H = columns_H < width
    weight_H = _early_weight(weight_ptr, columns_H, inside_H, IS_DEPENDENT)
    x_H = tl.load(x_ptr + row * width + columns_H, mask=inside_H, other=0.0).to(tl.float32)
    out_H = _normed(x_H, weight_H, width, eps)
    tl.store(out_ptr + row * width + columns_H, out_H, mask=inside_H)


@triton.jit
def add_rms_norm_kernel(
    x_ptr,
    y_ptr,
    weight_ptr,
    sum_ptr,
    out_ptr,
    width,
    eps,
    BLOCK_H: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns_H = tl.arange(0, BLOCK_H)
    inside_H = columns_H < width
    weight_H = _early_weight(weight_ptr, columns_H, inside_H, IS_DEPENDENT)
    x_H = tl.load(x_ptr + row * width + columns_H, mask=inside_H, other=0.0).to(tl.float32)
    y_H = tl.load(y_ptr + row * width + columns_H, mask=inside_H, other=0.0).to(tl.float32)
    # Rounded before the norm, which must be of the sum that later layers read.
    sum_H = (x_H + y_H).to(sum_ptr.dtype.element_ty)
    tl.store(sum_ptr + row * width + columns_H, sum_H, mask=inside_H)
    out_H = _normed(sum_H.to(tl.float32), weight_H, width, eps)
    tl.store(out_ptr + row * width + columns_H, out_H, mask=inside_H)


@triton.jit
def join_rms_norms_kernel(
    x_ptr,
    y_ptr,
    x_weight_ptr,
    y_weight_ptr,
    out_ptr,
    width,
    eps,
    BLOCK_H: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns_H = tl.arange(0, BLOCK_H)
    inside_H = columns_H < width
    if tl.program_id(1) == 0:
        weight_H = _early_weight(x_weight_ptr, columns_H, inside_H, IS_DEPENDENT)
        x_H = tl.load(x_ptr + row * width + columns_H, mask=inside_H, other=0.0).to(tl.float32)
        out_H = _normed(x_H, weight_H, width, eps)
        tl.store(out_ptr + 2 * row * width + columns_H, out_H, mask=inside_H)
    else:
        weight_H = _early_weight(y_weight_ptr, columns_H, inside_H, IS_DEPENDENT)
        y_H = tl.load(y_ptr + row * width + columns_H, mask=inside_H, other=0.0).to(tl.float32)
        out_H = _normed(y_H, weight_H, width, eps)
        tl.store(out_ptr + (2 * row + 1) * width + columns_H, out_H, mask=inside_H)


def rms_norm(x: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    """As the reference's."""
    width = _checked_width("rms_norm", x, weight_H)
    out = torch.empty_like(x)
    if x.numel():
        block = triton.next_power_of_2(width)
        rms_norm_kernel[(x.numel() // width,)](
            x,
            weight_H,
            out,
            width,
            eps,
            BLOCK_H=block,
            num_warps=num_warps(block),
            **dependent_launch.options(x.device),
        )
    return out


def add_rms_norm(x: Tensor, y: Tensor, weight_H: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """As the reference's."""
    width = _checked_width("add_rms_norm", x, weight_H)
    _check_alike("add_rms_norm", x, y, weight_H)
    total, out = torch.empty_like(x), torch.empty_like(x)
    if x.numel():
        block = triton.next_power_of_2(width)
        add_rms_norm_kernel[(x.numel() // width,)](
            x,
            y,
            weight_H,
            total,
            out,
            width,
            eps,
            BLOCK_H=block,
            num_warps=num_warps(block),
            **dependent_launch.options(x.device),
        )
    return total, out


def join_rms_norms(
    x: Tensor, y: Tensor, x_weight_H: Tensor, y_weight_H: Tensor, *, eps: float
) -> Tensor:
    """As the reference's."""
    width = _checked_width("join_rms_norms", x, x_weight_H)
    _check_alike("join_rms_norms", x, y, y_weight_H)
    out = x.new_empty(*x.shape[:-1], 2 * width)
    if x.numel():
        block = triton.next_power_of_2(width)
        join_rms_norms_kernel[(x.numel() // width, 2)](
            x,
            y,
            x_weight_H,
            y_weight_H,
            out,
            width,
            eps,
            BLOCK_H=block,
            num_warps=num_warps(block),
            **dependent_launch.options(x.device),
        )
    return out


def num_warps(block: int) -> int:
    """Eight elements a thread, or more if a program would otherwise need more than 16 warps."""
    return min(max(block // 256, 1), 16)


def _checked_width(operator: str, x: Tensor, weight_H: Tensor) -> int:
    width = x.shape[-1]
    if not x.is_contiguous() or width > MAX_WIDTH:
        raise ValueError(
            f"{operator} takes contiguous rows of at most {MAX_WIDTH}, got shape "
            f"{tuple(x.shape)}, strides {x.stride()}; call contiguous() first"
        )
    if weight_H.shape != (width,) or not weight_H.is_contiguous():
        raise ValueError(
            f"{operator} takes a contiguous weight of shape ({width},), as wide as a row, got "
            f"shape {tuple(weight_H.shape)}, strides {weight_H.stride()}"
        )
    return width


def _check_alike(operator: str, x: Tensor, y: Tensor, y_weight_H: Tensor) -> None:
    _checked_width(operator, y, y_weight_H)
    if y.shape != x.shape or y.dtype != x.dtype:
        raise ValueError(
            f"{operator} takes two tensors of one shape and dtype, got {tuple(x.shape)} of "
            f"{x.dtype} and {tuple(y.shape)} of {y.dtype}"
        )
