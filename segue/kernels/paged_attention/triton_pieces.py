"""Which piece of which run's keys a program of `triton_runs` has.

Pieces of a batch are equally long: its keys, shared out over the wanted number of pieces. So a chip
is as busy with one long sequence among short ones as with equal ones. Lengths are on the device
alone, where every program works this out for itself: the pieces of a run are numbered from where
those of the runs before it end; these numbers are the slots of the grid.

`sizes`: how many runs are in each round.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def num_tokens_of(runs_D, sizes):
    """Of each run: in how many rounds it is."""
    num_tokens_D = (runs_D < sizes[0]).to(tl.int32)
    for j in tl.static_range(1, len(sizes)):
        num_tokens_D += (runs_D < sizes[j]).to(tl.int32)
    return num_tokens_D


@triton.jit
def tiles_of(lengths_ptr, runs_D, num_runs, sizes, BLOCK_N: tl.constexpr):
    """Of each run: how many tiles of keys its last query sees. None where the length is zero."""
    length_D = tl.load(lengths_ptr + runs_D, mask=runs_D < num_runs, other=0).to(tl.int32)
    end_D = length_D + num_tokens_of(runs_D, sizes) - 1
    return tl.where(length_D > 0, tl.cdiv(end_D, BLOCK_N), 0)


@triton.jit
def run_of_slot(
    slot,
    lengths_ptr,
    num_runs,
    wanted_pieces,
    min_tiles,
    sizes,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The run that a slot is of, `num_runs` if none; the run's first slot; tiles of each piece.

    There are at most `wanted_pieces` slots and one more for each run.
    """
    num_tiles = 0
    for begin in range(0, num_runs, BLOCK_D):
        runs_D = begin + tl.arange(0, BLOCK_D)
        num_tiles += tl.sum(tiles_of(lengths_ptr, runs_D, num_runs, sizes, BLOCK_N))
    piece_tiles = tl.maximum(tl.cdiv(num_tiles, wanted_pieces), min_tiles)
    run = 0
    first_slot = 0
    num_slots = 0
    for begin in range(0, num_runs, BLOCK_D):
        runs_D = begin + tl.arange(0, BLOCK_D)
        tiles_D = tiles_of(lengths_ptr, runs_D, num_runs, sizes, BLOCK_N)
        end_D = num_slots + tl.cumsum(tl.cdiv(tiles_D, piece_tiles))
        is_before_D = (end_D <= slot) & (runs_D < num_runs)
        run += tl.sum(is_before_D.to(tl.int32))
        first_slot = tl.maximum(first_slot, tl.max(tl.where(is_before_D, end_D, 0)))
        num_slots = tl.max(end_D)
    return run, first_slot, piece_tiles
