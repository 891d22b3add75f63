"""Norm, rotation and storage of a block of heads, for the kernel of attention's input.

N the heads of a block, X the head dimension, R rotated dimensions.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def e4m3_codes(x):
    """The codes of float32 numbers: the nearest, of two the even one, and the largest beyond it.

    In integers, since the interpreter's own conversion does not carry into the exponent.
    """
    bits = x.to(tl.int32, bitcast=True)
    magnitude = tl.minimum(bits & 0x7FFFFFFF, 0x43E00000)  # 448
    normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - 960
    # Below 2^-6 codes are multiples of 2^-9, which is what this sum is rounded to.
    shifted = magnitude.to(tl.float32, bitcast=True) + 24576.0
    small = shifted.to(tl.int32, bitcast=True) - 0x46C00000
    code = tl.where(magnitude < 0x3C800000, small, normal)
    code = tl.where(x == x, code, 0x7F)
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def store(to_ptrs, x, by, inside):
    """Store numbers, or if the memory has bytes, the e4m3 codes of `by` times the numbers."""
    if to_ptrs.dtype.element_ty == tl.uint8:
        tl.store(to_ptrs, e4m3_codes(x.to(tl.float32) * by), mask=inside)
    else:
        tl.store(to_ptrs, x, mask=inside)


@triton.jit
def norm_and_rotate(
    from_N,
    to_N,
    inside_N,
    norm_ptr,
    cos_ptr,
    sin_ptr,
    token,
    eps,
    by,
    HEAD_DIM: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Norm and rotate heads; the pointers are to their first elements."""
    HALF: tl.constexpr = ROTARY_DIM // 2
    BLOCK_N: tl.constexpr = inside_N.shape[0]
    # Weights and tables are loaded again for each head: they come from L1 into the threads that
    # need them, with no exchange between warps.
    column = tl.broadcast_to(tl.arange(0, BLOCK_X)[None, :], (BLOCK_N, BLOCK_X))
    # Written so that the compiler sees contiguous runs, which it loads at once.
    partner = column + HALF - column // HALF % 2 * ROTARY_DIM
    inside = inside_N[:, None] & (column < HEAD_DIM)
    turns = inside_N[:, None] & (column < ROTARY_DIM)
    x = tl.load(from_N[:, None] + column, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(from_N[:, None] + partner, mask=turns, other=0.0).to(tl.float32)
    x_weight = 1.0 + tl.load(norm_ptr + column, mask=inside, other=0.0).to(tl.float32)
    y_weight = 1.0 + tl.load(norm_ptr + partner, mask=turns, other=0.0).to(tl.float32)
    # Dimensions that are not rotated have an angle of zero.
    cos = tl.load(cos_ptr + token * ROTARY_DIM + column, mask=turns, other=1.0)
    sin = tl.load(sin_ptr + token * ROTARY_DIM + column, mask=turns, other=0.0)
    scale_N = tl.rsqrt(tl.sum(x * x, axis=1) / HEAD_DIM + eps)
    turned = (x * x_weight * cos + y * y_weight * sin) * scale_N[:, None]
    store(to_N[:, None] + column, turned, by, inside)
