"""Attention of a few queries a sequence over its pages, in Triton; see `triton` for the method.

Bound by reading keys and values, so the whole chip must keep reading for any mix of lengths. A
program has the queries of one run for one key head, and a piece of the run's keys
(`triton_pieces`). The grid is an upper bound computed from shapes; programs past the last piece
return at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels.paged_attention.triton import (
    LOWEST,
    attend_tiles,
    check,
    combine_pieces,
    exponent_scale,
    num_multiprocessors,
)
from segue.kernels.paged_attention.triton_pieces import num_tokens_of, run_of_slot
from segue.kernels.rounds import SIZE_NAMES, kernel_sizes

BLOCK_N = 32
BLOCK_D = 128
NUM_WARPS, NUM_STAGES = 4, 5
SHARED_BYTES = 227 * 1024
"""Per multiprocessor."""
MAX_WAVES = 4
"""Most pieces per resident program: smaller pieces balance sequences of different lengths."""

_UNSPECIALISED = ["num_runs", "table_stride", "wanted_pieces", "min_tiles", "num_rows"]


@triton.jit(do_not_specialize=[*_UNSPECIALISED, "first_position", *SIZE_NAMES])
def attend_runs_kernel(
    q_ptr,
    pages_ptr,
    partial_ptr,
    stats_ptr,
    pieces_ptr,
    table_ptr,
    lengths_ptr,
    num_runs,
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
    run, first_slot, piece_tiles = run_of_slot(
        slot, lengths_ptr, num_runs, wanted_pieces, min_tiles, sizes, BLOCK_N, BLOCK_D
    )
    if run >= num_runs:
        return

    length = tl.load(lengths_ptr + run).to(tl.int32)
    num_tokens = num_tokens_of(run, sizes)
    rows_M = tl.arange(0, BLOCK_M)
    tokens_M = rows_M // GROUP
    inside_M = tokens_M < num_tokens
    places_M = tl.zeros_like(rows_M) + run
    for j in tl.static_range(len(sizes)):
        places_M += tl.where(tokens_M > j, sizes[j], 0)
    columns_X = tl.arange(0, HEAD_DIM)
    heads_M = places_M.to(tl.int64) * (NUM_KV_HEADS * GROUP)
    heads_M += kv_head * GROUP + rows_M % GROUP
    q_ptrs_MX = q_ptr + (heads_M * HEAD_DIM)[:, None] + columns_X[None, :]
    q_MX = tl.load(q_ptrs_MX, mask=inside_M[:, None], other=0.0)

    if (slot == first_slot) & (kv_head == 0):
        num_tiles = tl.cdiv(length + num_tokens - 1, BLOCK_N)
        tl.store(pieces_ptr + run * 2, first_slot)
        tl.store(pieces_ptr + run * 2 + 1, tl.cdiv(num_tiles, piece_tiles))
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
        table_ptr + tl.cast(run, tl.int64) * table_stride,
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
def combine_runs_kernel(
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
    run = place
    token = 0
    for j in tl.static_range(len(sizes)):
        is_later = (token == j) & (run >= sizes[j])
        run = tl.where(is_later, run - sizes[j], run)
        token += is_later.to(tl.int32)
    # The pieces of a run without tokens were never written.
    is_padding = tl.load(lengths_ptr + run) <= 0
    first_slot = tl.load(pieces_ptr + run * 2, mask=~is_padding, other=0).to(tl.int64)
    num_pieces = tl.load(pieces_ptr + run * 2 + 1, mask=~is_padding, other=0)

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


def attend_runs(
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
    num_runs, num_pages = page_table_DP.shape
    sizes = kernel_sizes(round_sizes, num_runs=num_runs, num_rows=num_tokens)
    group = num_heads // num_kv_heads
    num_rows = len(round_sizes) * group
    block_m = max(triton.next_power_of_2(num_rows), 16)
    min_tiles = max(block_m // 4, 4)
    num_resident = resident_programs(block_m, head_dim * q_TQX.element_size())
    num_resident *= num_multiprocessors(q_TQX.device)
    wanted_pieces = pieces_wanted(num_runs, num_kv_heads, num_resident)
    max_pieces = triton.cdiv(triton.cdiv(num_pages * page_tokens, BLOCK_N), min_tiles)
    num_slots = min(wanted_pieces + num_runs, num_runs * max_pieces)
    partial = q_TQX.new_empty(num_slots, num_kv_heads, num_rows, head_dim, dtype=torch.float32)
    stats = q_TQX.new_empty(num_slots, num_kv_heads, num_rows, 2, dtype=torch.float32)
    pieces = q_TQX.new_empty(num_runs, 2, dtype=torch.int32)
    out_TQX = torch.empty_like(q_TQX)
    attend_runs_kernel[(num_kv_heads, num_slots)](
        q_TQX,
        pages_Z2GOX,
        partial,
        stats,
        pieces,
        page_table_DP,
        lengths_D,
        num_runs,
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
    combine_runs_kernel[(num_tokens, num_heads, head_dim // block_x)](
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


def attend_steps(
    q_DQX: Tensor,
    pages_Z2GOX: Tensor,
    *,
    page_table_DP: Tensor,
    lengths_D: Tensor,
    first_position: int = 0,
) -> Tensor:
    """As the reference's."""
    return attend_runs(
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


def pieces_wanted(num_runs: int, num_kv_heads: int, num_resident: int) -> int:
    """Pieces per key head: a single run fills the chip once, several of different lengths more."""
    return max(num_resident * min(num_runs, MAX_WAVES) // num_kv_heads, 1)
