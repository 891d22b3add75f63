"""Attention of a few queries a sequence over its pages, in Triton; see `triton` for the method.

Bound by reading keys and values, so the whole chip must keep reading for any mix of lengths. A
program has queries of one sequence for one key head, and a piece of the sequence's keys
(`triton_pieces`), and then the next such piece until there are none. The grid follows from shapes;
programs without a piece return at once.

A query's result has the same bits in any batch, beside any number of drafts and as a draft itself:
pieces follow from positions, and the size of a tile from the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.blocks import num_multiprocessors
from segue.kernels.dependent_launch import start
from segue.kernels.draft_rounds import SIZE_NAMES, kernel_sizes
from segue.kernels.paged_attention.e4m3 import UNSCALED, Scales, as_bytes
from segue.kernels.paged_attention.triton import (
    attend_tiles,
    before_any_key,
    check,
    combine_pieces,
    exponent_scale,
)
from segue.kernels.paged_attention.triton_pieces import (
    first_tile_of,
    most_pieces,
    num_pieces_of,
    num_tokens_of,
    sequence_of_slot,
)

BLOCK_N = 32
BLOCK_D = 128
NUM_WARPS, NUM_STAGES = 4, 5
PIECE_TILES = 4
"""Of the first pieces: 128 keys, so that 4,000 tokens are 24 pieces for each key head."""
MOST_TILE_ROWS = 32
"""More would be another instruction, with sums in another order."""
TILE_TOKENS = 4
"""Queries of a sequence that a tile has room for, up to `MOST_TILE_ROWS`."""
MOST_PROGRAMS = 12
"""For each multiprocessor, where two or three run at a time."""

_UNSPECIALISED = ["num_sequences", "table_stride", "num_rows"]


@triton.jit(do_not_specialize=[*_UNSPECIALISED, "first_position", *SIZE_NAMES])
def attend_decode_kernel(
    q_ptr,
    pages_ptr,
    partial_ptr,
    stats_ptr,
    pieces_ptr,
    table_ptr,
    lengths_ptr,
    num_sequences,
    table_stride,
    num_rows,
    first_position,
    scale,
    v_scale,
    size_0,
    size_1,
    size_2,
    size_3,
    size_4,
    size_5,
    size_6,
    size_7,
    GROUP: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PIECE_TILES: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start(IS_DEPENDENT)
    # Key heads of a piece run side by side: they read the same pages.
    kv_head = tl.program_id(0)
    slot = tl.program_id(1)
    rows_M = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns_X = tl.arange(0, HEAD_DIM)
    sizes = (size_0, size_1, size_2, size_3, size_4, size_5, size_6, size_7)
    sequence, first_slot = sequence_of_slot(
        slot, lengths_ptr, num_sequences, sizes, BLOCK_N, BLOCK_D, PIECE_TILES
    )
    while sequence < num_sequences:
        length = tl.load(lengths_ptr + sequence).to(tl.int32)
        num_tokens = num_tokens_of(sequence, sizes)
        tokens_M = rows_M // GROUP
        inside_M = tokens_M < num_tokens
        places_M = tl.zeros_like(rows_M) + sequence
        for j in tl.static_range(len(sizes)):
            places_M += tl.where(tokens_M > j, sizes[j], 0)
        heads_M = places_M.to(tl.int64) * (NUM_KV_HEADS * GROUP)
        heads_M += kv_head * GROUP + rows_M % GROUP
        q_ptrs_MX = q_ptr + (heads_M * HEAD_DIM)[:, None] + columns_X[None, :]
        q_MX = tl.load(q_ptrs_MX, mask=inside_M[:, None], other=0.0)

        num_keys = length + num_tokens - 1
        num_pieces = num_pieces_of(tl.cdiv(num_keys, BLOCK_N), PIECE_TILES)
        piece = num_pieces - 1 - (slot - first_slot)
        if (piece == 0) & (kv_head == 0) & (tl.program_id(2) == 0):
            tl.store(pieces_ptr + sequence * 2, first_slot)
            tl.store(pieces_ptr + sequence * 2 + 1, num_pieces)
        max_M, sum_M, out_MX = attend_tiles(
            q_MX,
            tl.where(inside_M, length + tokens_M, 0),
            *before_any_key(q_MX),
            first_tile_of(piece, PIECE_TILES) * BLOCK_N,
            tl.minimum(first_tile_of(piece + 1, PIECE_TILES) * BLOCK_N, num_keys),
            first_position,
            pages_ptr + kv_head * (PAGE_TOKENS * HEAD_DIM),
            table_ptr + tl.cast(sequence, tl.int64) * table_stride,
            scale,
            True,
            NUM_KV_HEADS,
            PAGE_TOKENS,
            BLOCK_N,
        )

        # By the piece, not by the slot: pieces are combined in the order of their positions.
        row = (tl.cast(first_slot + piece, tl.int64) * tl.num_programs(0) + kv_head) * num_rows
        partial_rows_M = row + rows_M
        partial_ptrs_MX = partial_ptr + (partial_rows_M * HEAD_DIM)[:, None] + columns_X[None, :]
        tl.store(partial_ptrs_MX, out_MX * v_scale, mask=inside_M[:, None])
        tl.store(stats_ptr + partial_rows_M * 2, max_M, mask=inside_M)
        tl.store(stats_ptr + partial_rows_M * 2 + 1, sum_M, mask=inside_M)

        slot += tl.num_programs(1)
        sequence, first_slot = sequence_of_slot(
            slot, lengths_ptr, num_sequences, sizes, BLOCK_N, BLOCK_D, PIECE_TILES
        )


@triton.jit(do_not_specialize=["num_rows", *SIZE_NAMES])
def combine_decode_kernel(
    partial_ptr,
    stats_ptr,
    pieces_ptr,
    out_ptr,
    lengths_ptr,
    num_rows,
    size_0,
    size_1,
    size_2,
    size_3,
    size_4,
    size_5,
    size_6,
    size_7,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_X: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start(IS_DEPENDENT)
    place = tl.program_id(0)
    head = tl.program_id(1)
    num_heads = tl.num_programs(1)
    sizes = (size_0, size_1, size_2, size_3, size_4, size_5, size_6, size_7)
    sequence = place
    token = 0
    for j in tl.static_range(len(sizes)):
        is_later = (token == j) & (sequence >= sizes[j])
        sequence = tl.where(is_later, sequence - sizes[j], sequence)
        token += is_later.to(tl.int32)
    # The pieces of a sequence without tokens were never written.
    is_padding = tl.load(lengths_ptr + sequence) <= 0
    first_slot = tl.load(pieces_ptr + sequence * 2, mask=~is_padding, other=0).to(tl.int64)
    num_pieces = tl.load(pieces_ptr + sequence * 2 + 1, mask=~is_padding, other=0)

    num_kv_heads = num_heads // GROUP
    row = token * GROUP + head % GROUP
    first_row = (first_slot * num_kv_heads + head // GROUP) * num_rows + row
    columns_X = tl.program_id(2) * BLOCK_X + tl.arange(0, BLOCK_X)
    out_X = combine_pieces(
        partial_ptr,
        stats_ptr,
        first_row,
        num_pieces,
        num_kv_heads * num_rows,
        columns_X,
        HEAD_DIM,
        BLOCK_S,
    )
    out_row = place.to(tl.int64) * num_heads + head
    tl.store(out_ptr + out_row * HEAD_DIM + columns_X, out_X)


def attend_verify(
    q_TQX: Tensor,
    pages_Z2GOX: Tensor,
    *,
    page_table_DP: Tensor,
    lengths_D: Tensor,
    round_sizes: Sequence[int],
    scales: Scales = UNSCALED,
    first_position: int = 0,
) -> Tensor:
    """As the reference's; keys before `first_position` are not seen."""
    check(q_TQX, pages_Z2GOX, page_table_DP)
    num_tokens, num_heads, head_dim = q_TQX.shape
    num_kv_heads, page_tokens = pages_Z2GOX.shape[2:4]
    num_sequences, num_pages = page_table_DP.shape
    sizes = kernel_sizes(round_sizes, num_sequences=num_sequences, num_rows=num_tokens)
    group = num_heads // num_kv_heads
    num_rows = len(round_sizes) * group
    block_m = tile_rows(group)
    max_tiles = triton.cdiv(num_pages * page_tokens, BLOCK_N)
    num_slots = num_sequences * most_pieces(max_tiles, PIECE_TILES)
    most_programs = max(MOST_PROGRAMS * num_multiprocessors(q_TQX.device) // num_kv_heads, 1)
    grid = (num_kv_heads, min(num_slots, most_programs), triton.cdiv(num_rows, block_m))
    partial = q_TQX.new_empty(num_slots, num_kv_heads, num_rows, head_dim, dtype=torch.float32)
    stats = q_TQX.new_empty(num_slots, num_kv_heads, num_rows, 2, dtype=torch.float32)
    pieces = q_TQX.new_empty(num_sequences, 2, dtype=torch.int32)
    out_TQX = torch.empty_like(q_TQX)
    attend_decode_kernel[grid](
        q_TQX,
        as_bytes(pages_Z2GOX),
        partial,
        stats,
        pieces,
        page_table_DP,
        lengths_D,
        num_sequences,
        page_table_DP.stride(0),
        num_rows,
        first_position,
        exponent_scale(head_dim, scales[0]),
        scales[1],
        *sizes,
        GROUP=group,
        NUM_KV_HEADS=num_kv_heads,
        PAGE_TOKENS=page_tokens,
        HEAD_DIM=head_dim,
        BLOCK_M=block_m,
        BLOCK_N=BLOCK_N,
        BLOCK_D=BLOCK_D,
        PIECE_TILES=PIECE_TILES,
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
        **dependent_launch.options(q_TQX.device),
    )
    block_x = min(head_dim, 128)
    combine_decode_kernel[(num_tokens, num_heads, head_dim // block_x)](
        partial,
        stats,
        pieces,
        out_TQX,
        lengths_D,
        num_rows,
        *sizes,
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_S=32,
        BLOCK_X=block_x,
        num_warps=4,
        **dependent_launch.options(q_TQX.device),
    )
    return out_TQX


def attend_decode(
    q_DQX: Tensor,
    pages_Z2GOX: Tensor,
    *,
    page_table_DP: Tensor,
    lengths_D: Tensor,
    first_position: int = 0,
    scales: Scales = UNSCALED,
) -> Tensor:
    """As the reference's."""
    return attend_verify(
        q_DQX,
        pages_Z2GOX,
        page_table_DP=page_table_DP,
        lengths_D=lengths_D,
        round_sizes=[len(q_DQX)],
        first_position=first_position,
        scales=scales,
    )


def tile_rows(group: int) -> int:
    """Of queries: the same for any number of them, because sums over a tile follow its layout."""
    rows: int = triton.next_power_of_2(TILE_TOKENS * group)
    return min(max(rows, 16), MOST_TILE_ROWS)
