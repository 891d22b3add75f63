"""Attention of a few queries a sequence over its pages, in Triton; see `triton` for the method.

Bound by reading keys and values, so the whole chip must keep reading for any mix of lengths. A
program has the queries of one sequence for one key head, and a piece of the sequence's keys
(`triton_pieces`). The grid is an upper bound computed from shapes; programs past the last piece
return at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.draft_rounds import SIZE_NAMES, kernel_sizes
from segue.kernels.paged_attention.triton import (
    LOWEST,
    attend_tiles,
    check,
    combine_pieces,
    exponent_scale,
    num_multiprocessors,
)
from segue.kernels.paged_attention.triton_pieces import num_tokens_of, sequence_of_slot

BLOCK_N = 32
BLOCK_D = 128
NUM_WARPS, NUM_STAGES = 4, 5
SHARED_BYTES = 227 * 1024
"""Per multiprocessor."""
MAX_WAVES = 4
"""Most pieces per resident program: smaller pieces balance sequences of different lengths."""

_UNSPECIALISED = ["num_sequences", "table_stride", "wanted_pieces", "min_tiles", "num_rows"]


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
    wanted_pieces,
    min_tiles,
    num_rows,
    first_position,
    scale,
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
):
    # Key heads of a piece run side by side: they read the same pages.
    kv_head = tl.program_id(0)
    slot = tl.program_id(1)
    sizes = (size_0, size_1, size_2, size_3, size_4, size_5, size_6, size_7)
    sequence, first_slot, piece_tiles = sequence_of_slot(
        slot, lengths_ptr, num_sequences, wanted_pieces, min_tiles, sizes, BLOCK_N, BLOCK_D
    )
    if sequence >= num_sequences:
        return

    length = tl.load(lengths_ptr + sequence).to(tl.int32)
    num_tokens = num_tokens_of(sequence, sizes)
    rows_M = tl.arange(0, BLOCK_M)
    tokens_M = rows_M // GROUP
    inside_M = tokens_M < num_tokens
    places_M = tl.zeros_like(rows_M) + sequence
    for j in tl.static_range(len(sizes)):
        places_M += tl.where(tokens_M > j, sizes[j], 0)
    columns_X = tl.arange(0, HEAD_DIM)
    heads_M = places_M.to(tl.int64) * (NUM_KV_HEADS * GROUP)
    heads_M += kv_head * GROUP + rows_M % GROUP
    q_ptrs_MX = q_ptr + (heads_M * HEAD_DIM)[:, None] + columns_X[None, :]
    q_MX = tl.load(q_ptrs_MX, mask=inside_M[:, None], other=0.0)

    if (slot == first_slot) & (kv_head == 0):
        num_tiles = tl.cdiv(length + num_tokens - 1, BLOCK_N)
        tl.store(pieces_ptr + sequence * 2, first_slot)
        tl.store(pieces_ptr + sequence * 2 + 1, tl.cdiv(num_tiles, piece_tiles))
    first = (slot - first_slot) * piece_tiles * BLOCK_N
    stop = tl.minimum(first + piece_tiles * BLOCK_N, length + num_tokens - 1)
    max_M, sum_M, out_MX = attend_tiles(
        q_MX,
        tl.where(inside_M, length + tokens_M, 0),
        tl.full([BLOCK_M], LOWEST, tl.float32),
        tl.zeros([BLOCK_M], tl.float32),
        tl.zeros([BLOCK_M, HEAD_DIM], tl.float32),
        first,
        stop,
        first_position,
        pages_ptr + kv_head * (PAGE_TOKENS * HEAD_DIM),
        table_ptr + tl.cast(sequence, tl.int64) * table_stride,
        scale,
        True,
        NUM_KV_HEADS,
        PAGE_TOKENS,
        HEAD_DIM,
        BLOCK_N,
    )

    partial_rows_M = (slot.to(tl.int64) * tl.num_programs(0) + kv_head) * num_rows + rows_M
    partial_ptrs_MX = partial_ptr + (partial_rows_M * HEAD_DIM)[:, None] + columns_X[None, :]
    tl.store(partial_ptrs_MX, out_MX, mask=inside_M[:, None])
    tl.store(stats_ptr + partial_rows_M * 2, max_M, mask=inside_M)
    tl.store(stats_ptr + partial_rows_M * 2 + 1, sum_M, mask=inside_M)


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
):
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
    block_m = max(triton.next_power_of_2(num_rows), 16)
    min_tiles = max(block_m // 4, 4)
    num_resident = resident_programs(block_m, head_dim * q_TQX.element_size())
    num_resident *= num_multiprocessors(q_TQX.device)
    wanted_pieces = pieces_wanted(num_sequences, num_kv_heads, num_resident)
    max_pieces = triton.cdiv(triton.cdiv(num_pages * page_tokens, BLOCK_N), min_tiles)
    num_slots = min(wanted_pieces + num_sequences, num_sequences * max_pieces)
    partial = q_TQX.new_empty(num_slots, num_kv_heads, num_rows, head_dim, dtype=torch.float32)
    stats = q_TQX.new_empty(num_slots, num_kv_heads, num_rows, 2, dtype=torch.float32)
    pieces = q_TQX.new_empty(num_sequences, 2, dtype=torch.int32)
    out_TQX = torch.empty_like(q_TQX)
    attend_decode_kernel[(num_kv_heads, num_slots)](
        q_TQX,
        pages_Z2GOX,
        partial,
        stats,
        pieces,
        page_table_DP,
        lengths_D,
        num_sequences,
        page_table_DP.stride(0),
        wanted_pieces,
        min_tiles,
        num_rows,
        first_position,
        exponent_scale(head_dim),
        *sizes,
        GROUP=group,
        NUM_KV_HEADS=num_kv_heads,
        PAGE_TOKENS=page_tokens,
        HEAD_DIM=head_dim,
        BLOCK_M=block_m,
        BLOCK_N=BLOCK_N,
        BLOCK_D=BLOCK_D,
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
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
    )
    return out_TQX


def attend_decode(
    q_DQX: Tensor,
    pages_Z2GOX: Tensor,
    *,
    page_table_DP: Tensor,
    lengths_D: Tensor,
    first_position: int = 0,
) -> Tensor:
    """As the reference's."""
    return attend_verify(
        q_DQX,
        pages_Z2GOX,
        page_table_DP=page_table_DP,
        lengths_D=lengths_D,
        round_sizes=[len(q_DQX)],
        first_position=first_position,
    )


def resident_programs(block_m: int, head_bytes: int) -> int:
    """Programs that fit into a multiprocessor's shared memory: queries, and two tiles of keys and
    values.

    Warpgroup products read tiles while the next ones arrive, which takes a third tile.
    """
    num_buffers = 2 if block_m < 64 else 3
    return max(SHARED_BYTES // ((block_m + 2 * num_buffers * BLOCK_N) * head_bytes + 2048), 1)


def pieces_wanted(num_sequences: int, num_kv_heads: int, num_resident: int) -> int:
    """Pieces per key head: a single sequence fills the chip once, several of different lengths more
    often."""
    return max(num_resident * min(num_sequences, MAX_WAVES) // num_kv_heads, 1)
