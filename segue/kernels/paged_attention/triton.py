"""Attention over pages in Triton: the code that prefill and decode share.

Online softmax over tiles of keys (Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022 and
2023). The query heads that share a key head are rows of one tile, so that a key is read once for
all of them. If few queries see many keys, the keys are split into pieces for different programs;
each program leaves a maximum, a sum and an output in float32, which are then combined
(Flash-Decoding, Dao et al. 2023).

M rows of queries: a token's heads of one key head, then the next token's. N keys of a tile, S
pieces, X the head dimension; other letters as in the reference.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.paged_attention.e4m3 import E4M3

LOWEST = tl.constexpr(-1e30)
"""Below every score, yet finite, so that the difference of two is defined."""
MAX_HEAD_BYTES = 512
"""A tile of larger heads would not fit into shared memory."""


@triton.jit
def before_any_key(q_MX):
    """Each row's maximum, sum and output, as `attend_tiles` continues them."""
    max_M = tl.full([q_MX.shape[0]], LOWEST, tl.float32)
    return max_M, tl.zeros_like(max_M), tl.zeros(q_MX.shape, tl.float32)


@triton.jit
def attend_tiles(
    q_MX,
    visible_M,
    max_M,
    sum_M,
    out_MX,
    first,
    stop,
    first_position,
    pages_ptr,
    table_ptr,
    scale,
    IS_MASKED: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Continue the softmax over the keys from `first`, a multiple of a tile, to `stop`.

    `pages` points to this key head in the first page, where its tokens are contiguous. Row m sees
    the tokens before `visible[m]`; `scale` turns scores into exponents of two. Bytes are e4m3
    codes, whose scales the caller applies. Not masked: tiles are whole and all rows see all of
    them. Masked: nothing is read before `first_position` or from `stop` on, since it may be NaN
    there, and zero times NaN is not zero.
    """
    HEAD_DIM: tl.constexpr = q_MX.shape[1]
    columns_X = tl.arange(0, HEAD_DIM)
    in_page_NX = (tl.arange(0, BLOCK_N) * HEAD_DIM)[:, None] + columns_X[None, :]
    for begin in tl.range(first, stop, BLOCK_N):
        positions_N = begin + tl.arange(0, BLOCK_N)
        inside_N = (positions_N >= first_position) & (positions_N < stop)
        if PAGE_TOKENS % BLOCK_N == 0:
            page = tl.load(table_ptr + begin // PAGE_TOKENS).to(tl.int64)
            row = page * (2 * NUM_KV_HEADS * PAGE_TOKENS) + begin % PAGE_TOKENS
            k_ptrs_NX = pages_ptr + row * HEAD_DIM + in_page_NX
        else:
            page_ptrs_N = table_ptr + positions_N // PAGE_TOKENS
            if IS_MASKED:
                pages_N = tl.load(page_ptrs_N, mask=inside_N, other=0).to(tl.int64)
            else:
                pages_N = tl.load(page_ptrs_N).to(tl.int64)
            rows_N = pages_N * (2 * NUM_KV_HEADS * PAGE_TOKENS) + positions_N % PAGE_TOKENS
            k_ptrs_NX = pages_ptr + (rows_N * HEAD_DIM)[:, None] + columns_X[None, :]
        v_ptrs_NX = k_ptrs_NX + NUM_KV_HEADS * PAGE_TOKENS * HEAD_DIM
        if IS_MASKED:
            k_NX = tl.load(k_ptrs_NX, mask=inside_N[:, None], other=0)
            v_NX = tl.load(v_ptrs_NX, mask=inside_N[:, None], other=0)
        else:
            k_NX = tl.load(k_ptrs_NX)
            v_NX = tl.load(v_ptrs_NX)
        if pages_ptr.dtype.element_ty == tl.uint8:
            k_NX = k_NX.to(tl.float8e4nv, bitcast=True).to(q_MX.dtype)
            v_NX = v_NX.to(tl.float8e4nv, bitcast=True).to(q_MX.dtype)
        score_MN = tl.dot(q_MX, tl.trans(k_NX), input_precision="ieee")
        if IS_MASKED:
            is_seen_MN = inside_N[None, :] & (positions_N[None, :] < visible_M[:, None])
            score_MN = tl.where(is_seen_MN, score_MN, float("-inf"))
        new_max_M = tl.maximum(max_M, tl.max(score_MN, 1) * scale)
        weight_MN = tl.exp2(score_MN * scale - new_max_M[:, None])
        shrink_M = tl.exp2(max_M - new_max_M)
        sum_M = sum_M * shrink_M + tl.sum(weight_MN, 1)
        out_MX = out_MX * shrink_M[:, None]
        out_MX = tl.dot(weight_MN.to(v_NX.dtype), v_NX, out_MX, input_precision="ieee")
        max_M = new_max_M
    return max_M, sum_M, out_MX


@triton.jit
def combine_pieces(
    partial_ptr,
    stats_ptr,
    first_row,
    num_pieces,
    row_stride,
    columns_X,
    HEAD_DIM: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """The output of one query in some columns, from its pieces in rows `row_stride` apart.

    Zeros if it saw no key.
    """
    so_far = LOWEST
    total = 0.0
    out_X = tl.zeros(columns_X.shape, tl.float32)
    for begin in range(0, num_pieces, BLOCK_S):
        pieces_S = begin + tl.arange(0, BLOCK_S)
        inside_S = pieces_S < num_pieces
        rows_S = first_row + pieces_S.to(tl.int64) * row_stride
        max_S = tl.load(stats_ptr + rows_S * 2, mask=inside_S, other=LOWEST)
        sum_S = tl.load(stats_ptr + rows_S * 2 + 1, mask=inside_S, other=0.0)
        partial_ptrs_SX = partial_ptr + (rows_S * HEAD_DIM)[:, None] + columns_X[None, :]
        partial_SX = tl.load(partial_ptrs_SX, mask=inside_S[:, None], other=0.0)
        new_max = tl.maximum(so_far, tl.max(max_S))
        weight_S = tl.exp2(max_S - new_max)
        shrink = tl.exp2(so_far - new_max)
        total = total * shrink + tl.sum(weight_S * sum_S)
        out_X = out_X * shrink + tl.sum(weight_S[:, None] * partial_SX, 0)
        so_far = new_max
    return out_X / tl.where(total > 0, total, 1.0)


def exponent_scale(head_dim: int, k_scale: float) -> float:
    """Factor from a query-key product to an exponent of two."""
    return k_scale * math.log2(math.e) / math.sqrt(head_dim)


def check(q_TQX: Tensor, pages_Z2GOX: Tensor, page_table_NP: Tensor) -> None:
    """Raises ValueError for anything that violates the kernels' assumptions."""
    num_heads, head_dim = q_TQX.shape[1:]
    num_kv_heads = pages_Z2GOX.shape[2]
    if not (q_TQX.is_contiguous() and pages_Z2GOX.is_contiguous()):
        raise ValueError(
            "attention needs contiguous queries and pages, got strides "
            f"{q_TQX.stride()} and {pages_Z2GOX.stride()}; call contiguous() on the queries first"
        )
    if pages_Z2GOX.dtype not in (q_TQX.dtype, E4M3) or head_dim != pages_Z2GOX.shape[4]:
        raise ValueError(
            f"queries and pages must agree, got {q_TQX.dtype} and {pages_Z2GOX.dtype}, "
            f"head dimensions {head_dim} and {pages_Z2GOX.shape[4]}"
        )
    is_power_of_two = head_dim >= 16 and head_dim & (head_dim - 1) == 0
    if not is_power_of_two or head_dim * q_TQX.element_size() > MAX_HEAD_BYTES:
        raise ValueError(
            f"head dimension must be a power of two from 16, and at most {MAX_HEAD_BYTES} bytes, "
            f"got {head_dim} of {q_TQX.dtype}"
        )
    if num_heads % num_kv_heads:
        raise ValueError(
            f"query heads must be a multiple of key heads, got {num_heads} and {num_kv_heads}"
        )
    if page_table_NP.stride(1) != 1:
        raise ValueError(
            f"rows of the page table must be contiguous, got strides {page_table_NP.stride()}"
        )
