"""The inverse of a unit lower triangular matrix in Triton, used to solve for a chunk's corrections.

C rows and columns, cut into squares of SIDE.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def inverse(system_CC, C: tl.constexpr, PRECISION: tl.constexpr, SIDE: tl.constexpr = 16):
    """(I + L)^-1, where L is the part of `system` below its diagonal.

    Uses forward substitution, row after row inside the diagonal squares, then square after square.
    No intermediate number is larger than those of the result, unlike with powers of L.
    """
    NUM: tl.constexpr = C // SIDE
    # Rows r and columns c of squares in block row a and block column b.
    a = tl.arange(0, NUM)
    r = tl.arange(0, SIDE)
    is_diagonal_arbc = (a[:, None] == a[None, :])[:, None, :, None]
    is_below_arc = (r[:, None] > r[None, :])[None, :, :]
    system_arbc = tl.reshape(system_CC, (NUM, SIDE, NUM, SIDE))
    lower_arc = tl.where(
        is_below_arc, tl.sum(tl.where(is_diagonal_arbc, system_arbc, 0.0), axis=2), 0.0
    )
    inverse_arc = tl.where((r[:, None] == r[None, :])[None, :, :], 1.0, tl.zeros_like(lower_arc))
    for i in range(SIDE - 1):
        column_ar = tl.sum(tl.where((r == i)[None, None, :], lower_arc, 0.0), axis=2)
        row_ac = tl.sum(tl.where((r == i)[None, :, None], inverse_arc, 0.0), axis=1)
        inverse_arc -= column_ar[:, :, None] * row_ac[:, None, :]

    diagonal_CC = tl.reshape(tl.where(is_diagonal_arbc, inverse_arc[:, :, None, :], 0.0), (C, C))
    square_C = tl.arange(0, C) // SIDE
    off_diagonal_CC = tl.where(square_C[:, None] > square_C[None, :], system_CC, 0.0)
    step_CC = tl.dot(diagonal_CC, off_diagonal_CC, input_precision=PRECISION)
    inverse_CC = diagonal_CC
    for _ in tl.static_range(NUM - 1):
        inverse_CC = diagonal_CC - tl.dot(step_CC, inverse_CC, input_precision=PRECISION)
    return inverse_CC
