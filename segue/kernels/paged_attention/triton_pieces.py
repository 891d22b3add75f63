"""Which piece of which sequence's keys each program of `triton_decode` computes.

All pieces of a batch have the same length: its keys divided by the wanted number of pieces. So one
long sequence among short ones keeps a chip as busy as equal ones do. Only the device knows the
lengths, so every program works out its own piece. Pieces are numbered consecutively, sequence after
sequence; these numbers are the slots of the grid.

`sizes`: the number of sequences in each draft round.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def num_tokens_of(sequences_D, sizes):
    """Number of rounds that each sequence takes part in."""
    num_tokens_D = (sequences_D < sizes[0]).to(tl.int32)
    for j in tl.static_range(1, len(sizes)):
        num_tokens_D += (sequences_D < sizes[j]).to(tl.int32)
    return num_tokens_D


@triton.jit
def tiles_of(lengths_ptr, sequences_D, num_sequences, sizes, BLOCK_N: tl.constexpr):
    """Number of tiles of keys that each sequence's last query sees. 0 if the length is zero."""
    length_D = tl.load(lengths_ptr + sequences_D, mask=sequences_D < num_sequences, other=0).to(
        tl.int32
    )
    end_D = length_D + num_tokens_of(sequences_D, sizes) - 1
    return tl.where(length_D > 0, tl.cdiv(end_D, BLOCK_N), 0)


@triton.jit
def sequence_of_slot(
    slot,
    lengths_ptr,
    num_sequences,
    wanted_pieces,
    min_tiles,
    sizes,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The sequence of a slot (`num_sequences` if none), its first slot, and the tiles of a piece.

    There are at most `wanted_pieces` slots plus one per sequence.
    """
    num_tiles = 0
    for begin in range(0, num_sequences, BLOCK_D):
        sequences_D = begin + tl.arange(0, BLOCK_D)
        num_tiles += tl.sum(tiles_of(lengths_ptr, sequences_D, num_sequences, sizes, BLOCK_N))
    piece_tiles = tl.maximum(tl.cdiv(num_tiles, wanted_pieces), min_tiles)
    sequence = 0
    first_slot = 0
    num_slots = 0
    for begin in range(0, num_sequences, BLOCK_D):
        sequences_D = begin + tl.arange(0, BLOCK_D)
        tiles_D = tiles_of(lengths_ptr, sequences_D, num_sequences, sizes, BLOCK_N)
        end_D = num_slots + tl.cumsum(tl.cdiv(tiles_D, piece_tiles))
        is_before_D = (end_D <= slot) & (sequences_D < num_sequences)
        sequence += tl.sum(is_before_D.to(tl.int32))
        first_slot = tl.maximum(first_slot, tl.max(tl.where(is_before_D, end_D, 0)))
        num_slots = tl.max(end_D)
    return sequence, first_slot, piece_tiles
