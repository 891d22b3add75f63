"""Float32 numbers as integers of the same order, for comparing them by parts."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def order_of(x):
    """int32: that of the larger is larger, both zeros have one, and NaNs have some."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def of_order(order):
    """The number that has this `order`."""
    return tl.where(order < 0, order ^ 0x7FFFFFFF, order).to(tl.float32, bitcast=True)
