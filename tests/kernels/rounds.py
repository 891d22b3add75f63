"""Runs that lie round by round, as a batch has them."""

from __future__ import annotations

ROUND_SIZES = [(3,), (1, 1), (1, 1, 1, 1, 1), (2, 2, 2), (4, 3, 3, 1, 1, 1, 1, 1)]


def rows_of_runs(round_sizes: tuple[int, ...]) -> list[list[int]]:
    """Of each run, the rows of its tokens in order."""
    return [
        [sum(round_sizes[:j]) + run for j, size in enumerate(round_sizes) if run < size]
        for run in range(round_sizes[0])
    ]
