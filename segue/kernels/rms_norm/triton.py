"""RMS norm in Triton: a program for each row, which is read once.

H the width of a row, BLOCK_H the next power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, empty_like

MAX_WIDTH = 16384
"""A row lies in the registers of one program."""


@triton.jit
def rms_norm_kernel(x_ptr, weight_ptr, out_ptr, width, eps, BLOCK_H: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns_H = tl.arange(0, BLOCK_H)
    inside_H = columns_H < width
    x_H = tl.load(x_ptr + row * width + columns_H, mask=inside_H, other=0.0).to(tl.float32)
    weight_H = tl.load(weight_ptr + columns_H, mask=inside_H, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x_H * x_H) / width + eps)
    out_H = x_H * scale * (1.0 + weight_H)
    tl.store(out_ptr + row * width + columns_H, out_H, mask=inside_H)


def rms_norm(x: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    """As the reference's."""
    width = x.shape[-1]
    if not x.is_contiguous() or width > MAX_WIDTH:
        raise ValueError(
            f"rms_norm takes contiguous rows of at most {MAX_WIDTH}, got shape {tuple(x.shape)}, "
            f"strides {x.stride()}; call contiguous() first"
        )
    out = empty_like(x)
    num_rows = x.numel() // width
    if num_rows:
        block = triton.next_power_of_2(width)
        rms_norm_kernel[(num_rows,)](
            x, weight_H, out, width, eps, BLOCK_H=block, num_warps=num_warps(block)
        )
    return out


def num_warps(block: int) -> int:
    """Eight elements a thread, and more where a program would have more than 16 warps."""
    return min(max(block // 256, 1), 16)
