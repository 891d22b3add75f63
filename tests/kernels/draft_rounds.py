"""Decode rows, stored one draft round after another as in a batch."""

from __future__ import annotations

ROUND_SIZES = [(3,), (1, 1), (1, 1, 1, 1, 1), (2, 2, 2), (4, 3, 3, 1, 1, 1, 1, 1)]


def rows_of_sequences(round_sizes: tuple[int, ...]) -> list[list[int]]:
    """For each sequence, the rows of its tokens in order."""
    return [
        [sum(round_sizes[:j]) + sequence for j, size in enumerate(round_sizes) if sequence < size]
        for sequence in range(round_sizes[0])
    ]
