"""Which piece of which sequence's keys a program of `triton_decode` computes.

A piece is the keys between two fixed positions, whatever the length of its sequence, the other
sequences and the number of queries. So a query's sums have one order in any batch. Pieces grow with
their positions, which keeps their number small where a sequence is long and a short one parallel.
With the first P tiles long:

    pieces          16     24     48     96     192    …
    tiles of each   P      2 P    4 P    8 P    16 P   …
    up to tile      16 P   64 P   256 P  1024 P 4096 P …

Only the device knows the lengths, so every program works out its own piece. Pieces are numbered
consecutively, sequence after sequence, the last of each first, since it is the largest; these
numbers are the slots of the grid.

`sizes`: the number of sequences in each draft round.
"""

from __future__ import annotations

import triton
import triton.language as tl

LEVELS = 7
"""Of sizes. Beyond the last one, pieces stay equal."""
_LEVELS = tl.constexpr(LEVELS)


def most_pieces(num_tiles: int, piece_tiles: int) -> int:
    """Of a sequence: as `num_pieces_of`, on the host."""
    num = -(-num_tiles // piece_tiles)
    for level in range(1, LEVELS):
        beyond = num_tiles - 4 * piece_tiles * 4**level
        if beyond > 0:
            num = 12 * 2**level - 8 + -(-beyond // (piece_tiles * 2**level))
    return num


@triton.jit
def num_pieces_of(num_tiles, PIECE_TILES: tl.constexpr):
    """Pieces of sequences with this many tiles."""
    num = tl.cdiv(num_tiles, PIECE_TILES)
    for level in tl.static_range(1, _LEVELS):
        beyond = num_tiles - 4 * PIECE_TILES * 4**level
        in_level = tl.cdiv(tl.maximum(beyond, 0), PIECE_TILES * 2**level)
        num = tl.where(beyond > 0, 12 * 2**level - 8 + in_level, num)
    return num


@triton.jit
def first_tile_of(piece, PIECE_TILES: tl.constexpr):
    """Where a piece starts: each level adds to the size from its first piece on."""
    num = piece
    for level in tl.static_range(1, _LEVELS):
        num += tl.maximum(piece - (12 * 2**level - 8), 0) * 2 ** (level - 1)
    return num * PIECE_TILES


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
    sizes,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PIECE_TILES: tl.constexpr,
):
    """The sequence of a slot (`num_sequences` if none), and its first slot."""
    sequence = 0
    first_slot = 0
    num_slots = 0
    for begin in range(0, num_sequences, BLOCK_D):
        sequences_D = begin + tl.arange(0, BLOCK_D)
        tiles_D = tiles_of(lengths_ptr, sequences_D, num_sequences, sizes, BLOCK_N)
        end_D = num_slots + tl.cumsum(num_pieces_of(tiles_D, PIECE_TILES))
        is_before_D = (end_D <= slot) & (sequences_D < num_sequences)
        sequence += tl.sum(is_before_D.to(tl.int32))
        first_slot = tl.maximum(first_slot, tl.max(tl.where(is_before_D, end_D, 0)))
        num_slots = tl.max(end_D)
    return sequence, first_slot
