"""Attention of packed sequences over their pages, in Triton; see `triton` beside it for the method.

A program has a tile of one sequence's query rows for one key head. It finds its tile on the device:
tiles of sequence n start at cu[n] · R / M + n, which gives each sequence as many as it needs and
some spare ones that return at once. If there are fewer tiles than multiprocessors, as for a short
turn after a long history, the keys of a tile are also split into pieces for several programs.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.blocks import num_multiprocessors
from segue.kernels.paged_attention.e4m3 import UNSCALED, Scales, as_bytes
from segue.kernels.paged_attention.triton import (
    attend_tiles,
    before_any_key,
    check,
    combine_pieces,
    exponent_scale,
)

BLOCK_M, BLOCK_N, BLOCK_I = 128, 64, 128
NUM_WARPS, NUM_STAGES = 8, 3
MAX_PIECES = 8
MIN_PIECE_TOKENS = 1024
"""Fewer keys are not worth a separate float32 output."""


@triton.jit(do_not_specialize=["num_sequences", "table_stride", "num_tokens"])
def attend_prefill_kernel(
    q_ptr,
    pages_ptr,
    out_ptr,
    partial_ptr,
    stats_ptr,
    cu_tokens_ptr,
    starts_ptr,
    table_ptr,
    num_sequences,
    table_stride,
    num_tokens,
    scale,
    v_scale,
    GROUP: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    # The last tiles run first: they see the most keys.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = -1
    for begin in range(0, num_sequences, BLOCK_I):
        sequences_I = begin + tl.arange(0, BLOCK_I)
        inside_I = sequences_I < num_sequences
        tokens_I = tl.load(cu_tokens_ptr + sequences_I, mask=inside_I, other=0).to(tl.int32)
        first_tiles_I = tokens_I * GROUP // BLOCK_M + sequences_I
        sequence += tl.sum((inside_I & (first_tiles_I <= tile)).to(tl.int32))
    first_token = tl.load(cu_tokens_ptr + sequence).to(tl.int32)
    num_rows = (tl.load(cu_tokens_ptr + sequence + 1).to(tl.int32) - first_token) * GROUP
    first_row = (tile - first_token * GROUP // BLOCK_M - sequence) * BLOCK_M
    if first_row >= num_rows:
        return

    # Rows are counted from the sequence's first row, tokens of this tile from its own first token,
    # so that offsets within a tile fit into 32 bits.
    tile_token = first_row // GROUP
    rows_M = first_row + tl.arange(0, BLOCK_M)
    inside_M = rows_M < num_rows
    columns_X = tl.arange(0, HEAD_DIM)
    token_elements: tl.constexpr = NUM_KV_HEADS * GROUP * HEAD_DIM
    heads_M = (rows_M // GROUP - tile_token) * token_elements + rows_M % GROUP * HEAD_DIM
    offsets_MX = heads_M[:, None] + columns_X[None, :]
    tile_head = (first_token + tile_token).to(tl.int64) * token_elements
    tile_head += kv_head * (GROUP * HEAD_DIM)
    q_MX = tl.load(q_ptr + tile_head + offsets_MX, mask=inside_M[:, None], other=0.0)

    start = tl.load(starts_ptr + sequence).to(tl.int32)
    end = start + (tl.minimum(first_row + BLOCK_M, num_rows) - 1) // GROUP + 1
    piece_tokens = tl.cdiv(tl.cdiv(end, BLOCK_N), tl.num_programs(2)) * BLOCK_N
    first = tl.program_id(2) * piece_tokens
    stop = tl.minimum(first + piece_tokens, end)
    # First the whole tiles that all rows see, then the rest.
    unmasked = tl.minimum((start + tile_token + 1) // BLOCK_N * BLOCK_N, stop)
    visible_M = start + rows_M // GROUP + 1
    head_ptr = pages_ptr + kv_head * (PAGE_TOKENS * HEAD_DIM)
    keys = (head_ptr, table_ptr + tl.cast(sequence, tl.int64) * table_stride, scale)
    so_far = before_any_key(q_MX)
    so_far = attend_tiles(
        q_MX,
        visible_M,
        *so_far,
        first,
        unmasked,
        0,
        *keys,
        False,
        NUM_KV_HEADS,
        PAGE_TOKENS,
        BLOCK_N,
    )
    first = tl.maximum(first, unmasked)
    max_M, sum_M, out_MX = attend_tiles(
        q_MX, visible_M, *so_far, first, stop, 0, *keys, True, NUM_KV_HEADS, PAGE_TOKENS, BLOCK_N
    )

    out_MX = out_MX * v_scale
    if partial_ptr is None:
        out_MX = out_MX / tl.where(sum_M > 0, sum_M, 1.0)[:, None]
        tl.store(out_ptr + tile_head + offsets_MX, out_MX, mask=inside_M[:, None])
    else:
        partial_head = tl.program_id(2).to(tl.int64) * num_tokens * token_elements + tile_head
        tl.store(partial_ptr + partial_head + offsets_MX, out_MX, mask=inside_M[:, None])
        stats_ptrs_M = stats_ptr + (partial_head + heads_M) // HEAD_DIM * 2
        tl.store(stats_ptrs_M, max_M, mask=inside_M)
        tl.store(stats_ptrs_M + 1, sum_M, mask=inside_M)


@triton.jit(do_not_specialize=["num_pieces"])
def combine_prefill_kernel(
    partial_ptr,
    stats_ptr,
    out_ptr,
    num_pieces,
    HEAD_DIM: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    num_rows = tl.num_programs(0)
    columns_X = tl.arange(0, HEAD_DIM)
    out_X = combine_pieces(
        partial_ptr, stats_ptr, row, num_pieces, num_rows, columns_X, HEAD_DIM, BLOCK_S
    )
    tl.store(out_ptr + row * HEAD_DIM + columns_X, out_X)


def attend_prefill(
    q_TQX: Tensor,
    pages_Z2GOX: Tensor,
    *,
    cu_tokens_N1: Tensor,
    starts_N: Tensor,
    page_table_NP: Tensor,
    scales: Scales = UNSCALED,
) -> Tensor:
    """As the reference's."""
    check(q_TQX, pages_Z2GOX, page_table_NP)
    out_TQX = torch.empty_like(q_TQX)
    num_tokens, num_heads, head_dim = q_TQX.shape
    num_kv_heads, page_tokens = pages_Z2GOX.shape[2:4]
    num_sequences, num_pages = page_table_NP.shape
    if not num_tokens:
        return out_TQX
    group = num_heads // num_kv_heads
    num_tiles = num_tokens * group // BLOCK_M + num_sequences
    num_pieces = pieces_of_tiles(
        num_tiles * num_kv_heads, num_pages * page_tokens, num_multiprocessors(q_TQX.device)
    )
    partial, stats = None, None
    if num_pieces > 1:
        partial = q_TQX.new_empty(num_pieces, *q_TQX.shape, dtype=torch.float32)
        stats = q_TQX.new_empty(num_pieces, num_tokens, num_heads, 2, dtype=torch.float32)
    attend_prefill_kernel[(num_tiles, num_kv_heads, num_pieces)](
        q_TQX,
        as_bytes(pages_Z2GOX),
        out_TQX,
        partial,
        stats,
        cu_tokens_N1,
        starts_N,
        page_table_NP,
        num_sequences,
        page_table_NP.stride(0),
        num_tokens,
        exponent_scale(head_dim, scales[0]),
        scales[1],
        GROUP=group,
        NUM_KV_HEADS=num_kv_heads,
        PAGE_TOKENS=page_tokens,
        HEAD_DIM=head_dim,
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N,
        BLOCK_I=BLOCK_I,
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
    )
    if num_pieces > 1:
        combine_prefill_kernel[(num_tokens * num_heads,)](
            partial, stats, out_TQX, num_pieces, HEAD_DIM=head_dim, BLOCK_S=MAX_PIECES, num_warps=1
        )
    return out_TQX


def pieces_of_tiles(num_tiles: int, num_keys: int, num_multiprocessors: int) -> int:
    """Number of pieces to split each tile's keys into, so that the chip is busy.

    It is the smallest number whose utilisation is within a tenth of the best: 100 tiles on 132
    multiprocessors are better cut in 5 (500 programs, 3.8 waves) than in 2 (200, 1.5 waves).
    """
    if num_tiles >= num_multiprocessors:
        return 1
    counts = range(1, max(min(MAX_PIECES, num_keys // MIN_PIECE_TOKENS), 1) + 1)
    busy = {}
    for count in counts:
        waves = num_tiles * count / num_multiprocessors
        busy[count] = waves / math.ceil(waves)
    return next(count for count in counts if busy[count] >= 0.9 * max(busy.values()))
