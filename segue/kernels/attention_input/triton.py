"""The input of attention in Triton: a program for a few heads of a token.

A token's heads are cut into blocks of queries, then blocks of keys with their values. A warp has a
head. Dimension r is rotated with its partner R / 2 further on or back, which another thread has.
Loading the partner a second time, from L1, avoids an exchange between threads.

T tokens, Y columns of the projection, Q query heads, G key/value heads, X head dimension, R rotated
dimensions, Z pages of O tokens, N the heads of a block.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.attention_input.checks import check
from segue.kernels.attention_input.triton_heads import norm_and_rotate, store
from segue.kernels.dependent_launch import start
from segue.kernels.paged_attention.e4m3 import UNSCALED, Scales, as_bytes

BLOCK_HEADS = 4
NUM_WARPS = 4


@triton.jit
def attention_input_kernel(
    packed_ptr,
    q_norm_ptr,
    k_norm_ptr,
    cos_ptr,
    sin_ptr,
    q_ptr,
    pool_ptr,
    page_ptr,
    offset_ptr,
    packed_stride,
    page_tokens,
    eps,
    k_by,
    v_by,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_X: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    """Without query heads, `q_norm` and `q` are not passed."""
    start(IS_DEPENDENT)
    QUERY_BLOCKS: tl.constexpr = (NUM_HEADS + BLOCK_N - 1) // BLOCK_N
    token, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row_ptr = packed_ptr + token * packed_stride
    tables = (cos_ptr, sin_ptr, token, eps)
    if block < QUERY_BLOCKS:
        if q_ptr is not None:
            heads_N = block * BLOCK_N + tl.arange(0, BLOCK_N)
            norm_and_rotate(
                row_ptr + 2 * heads_N * HEAD_DIM,
                q_ptr + (token * NUM_HEADS + heads_N) * HEAD_DIM,
                heads_N < NUM_HEADS,
                q_norm_ptr,
                *tables,
                1.0,
                HEAD_DIM,
                ROTARY_DIM,
                BLOCK_X,
            )
    else:
        heads_N = (block - QUERY_BLOCKS) * BLOCK_N + tl.arange(0, BLOCK_N)
        inside_N = heads_N < NUM_KV_HEADS
        page = tl.load(page_ptr + token).to(tl.int64)
        offset = tl.load(offset_ptr + token).to(tl.int64)
        # A head of a page is `page_tokens` rows; all values come after all keys.
        rows_N = page * (2 * NUM_KV_HEADS * page_tokens) + offset + heads_N * page_tokens
        from_N = row_ptr + 2 * NUM_HEADS * HEAD_DIM + heads_N * HEAD_DIM
        columns_X = tl.arange(0, BLOCK_X)
        inside_NX = inside_N[:, None] & (columns_X < HEAD_DIM)[None, :]
        v_ptrs_NX = (from_N + NUM_KV_HEADS * HEAD_DIM)[:, None] + columns_X[None, :]
        values_N = pool_ptr + (rows_N + NUM_KV_HEADS * page_tokens) * HEAD_DIM
        v_NX = tl.load(v_ptrs_NX, mask=inside_NX)
        store(values_N[:, None] + columns_X[None, :], v_NX, v_by, inside_NX)
        keys_N = pool_ptr + rows_N * HEAD_DIM
        norm_and_rotate(
            from_N, keys_N, inside_N, k_norm_ptr, *tables, k_by, HEAD_DIM, ROTARY_DIM, BLOCK_X
        )


def attention_input(
    packed_TY: Tensor,
    q_norm_X: Tensor,
    k_norm_X: Tensor,
    cos_T1R: Tensor,
    sin_T1R: Tensor,
    pages_Z2GOX: Tensor,
    *,
    pages_T: Tensor,
    offsets_T: Tensor,
    eps: float,
    scales: Scales = UNSCALED,
) -> tuple[Tensor, Tensor]:
    """As the reference's."""
    check(packed_TY, (q_norm_X, k_norm_X), (cos_T1R, sin_T1R), pages_Z2GOX, (pages_T, offsets_T))
    num_kv_heads, _, head_dim = pages_Z2GOX.shape[2:]
    num_heads = packed_TY.shape[1] // (2 * head_dim) - num_kv_heads
    q_TQX = packed_TY.new_empty(len(packed_TY), num_heads, head_dim)
    norms, places = (q_norm_X, k_norm_X), (pages_T, offsets_T)
    _launch(packed_TY, norms, (cos_T1R, sin_T1R), q_TQX, pages_Z2GOX, places, eps, scales)
    q_gate_TNX = packed_TY[:, : 2 * num_heads * head_dim].unflatten(1, (2 * num_heads, head_dim))
    return q_TQX, q_gate_TNX[:, 1::2]


def store_keys_and_values(
    packed_TY: Tensor,
    k_norm_X: Tensor,
    cos_T1R: Tensor,
    sin_T1R: Tensor,
    pages_Z2GOX: Tensor,
    *,
    pages_T: Tensor,
    offsets_T: Tensor,
    eps: float,
    scales: Scales = UNSCALED,
) -> None:
    """As the reference's."""
    check(packed_TY, (k_norm_X,), (cos_T1R, sin_T1R), pages_Z2GOX, (pages_T, offsets_T))
    norms, places = (None, k_norm_X), (pages_T, offsets_T)
    _launch(packed_TY, norms, (cos_T1R, sin_T1R), None, pages_Z2GOX, places, eps, scales)


def _launch(
    packed_TY: Tensor,
    norms: tuple[Tensor | None, Tensor],
    tables: tuple[Tensor, Tensor],
    q_TQX: Tensor | None,
    pages_Z2GOX: Tensor,
    places: tuple[Tensor, Tensor],
    eps: float,
    scales: Scales,
) -> None:
    num_tokens = len(packed_TY)
    num_kv_heads, page_tokens, head_dim = pages_Z2GOX.shape[2:]
    num_heads = 0 if q_TQX is None else q_TQX.shape[1]
    if num_tokens:
        num_blocks = triton.cdiv(num_heads, BLOCK_HEADS) + triton.cdiv(num_kv_heads, BLOCK_HEADS)
        attention_input_kernel[(num_tokens, num_blocks)](
            packed_TY,
            *norms,
            *tables,
            q_TQX,
            as_bytes(pages_Z2GOX),
            *places,
            packed_TY.stride(0),
            page_tokens,
            eps,
            1 / scales[0],
            1 / scales[1],
            NUM_HEADS=num_heads,
            NUM_KV_HEADS=num_kv_heads,
            **sizes(head_dim, tables[0].shape[2]),
            num_warps=NUM_WARPS,
            **dependent_launch.options(packed_TY.device),
        )


def sizes(head_dim: int, rotary_dim: int) -> dict[str, int]:
    """Sizes of a head and of a block, under the kernels' argument names."""
    return {
        "HEAD_DIM": head_dim,
        "ROTARY_DIM": rotary_dim,
        "BLOCK_N": BLOCK_HEADS,
        "BLOCK_X": triton.next_power_of_2(head_dim),
    }
