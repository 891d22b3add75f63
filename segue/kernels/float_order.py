"""Float32 numbers as integers in the same order, so that they can be compared digit by digit."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def order_of(x):
    """int32 in the order of the numbers. Both zeros share a value; that of a NaN is arbitrary."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def of_order(order):
    """The number with this `order`."""
    return tl.where(order < 0, order ^ 0x7FFFFFFF, order).to(tl.float32, bitcast=True)
