"""Storing keys and values in pages, in Triton: a program for each token."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["k_stride", "v_stride"])
def write_pages_kernel(
    k_ptr,
    v_ptr,
    pages_ptr,
    pages_T_ptr,
    offsets_T_ptr,
    k_stride,
    v_stride,
    PAGE_TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    page = tl.load(pages_T_ptr + token).to(tl.int64)
    row = page * (2 * PAGE_TOKENS) + tl.load(offsets_T_ptr + token)
    column = tl.arange(0, BLOCK)
    is_real = column < WIDTH
    k = tl.load(k_ptr + token * k_stride + column, mask=is_real)
    v = tl.load(v_ptr + token * v_stride + column, mask=is_real)
    tl.store(pages_ptr + row * WIDTH + column, k, mask=is_real)
    tl.store(pages_ptr + (row + PAGE_TOKENS) * WIDTH + column, v, mask=is_real)


def write_pages(
    k_TGX: Tensor, v_TGX: Tensor, pages_Z2OGX: Tensor, *, pages_T: Tensor, offsets_T: Tensor
) -> None:
    """As the reference's."""
    num_tokens, num_kv_heads, head_dim = k_TGX.shape
    for x_TGX in (k_TGX, v_TGX):
        if x_TGX.stride()[1:] != (head_dim, 1):
            raise ValueError(
                "write_pages takes tokens whose heads are neighbours, got strides "
                f"{x_TGX.stride()} for shape {tuple(x_TGX.shape)}"
            )
    if not pages_Z2OGX.is_contiguous():
        raise ValueError(f"write_pages takes contiguous pages, got strides {pages_Z2OGX.stride()}")
    width = num_kv_heads * head_dim
    if num_tokens:
        write_pages_kernel[(num_tokens,)](
            k_TGX,
            v_TGX,
            pages_Z2OGX,
            pages_T,
            offsets_T,
            k_TGX.stride(0),
            v_TGX.stride(0),
            PAGE_TOKENS=pages_Z2OGX.shape[2],
            WIDTH=width,
            BLOCK=triton.next_power_of_2(width),
        )
