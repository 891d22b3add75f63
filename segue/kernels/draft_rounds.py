"""Kernel arguments for decode rows, which are stored one draft round after another.

Draft round j has the j-th token of every sequence with that many: `round_sizes[j]` of them, at most
as many as in the previous round.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_ROUNDS = 8
"""Limit for a kernel, which holds a token of each round in registers."""
SIZE_NAMES = tuple(f"size_{j}" for j in range(MAX_ROUNDS))
"""Arguments that no kernel specialises on: they change from pass to pass."""


def kernel_sizes(
    round_sizes: Sequence[int], *, num_sequences: int, num_rows: int
) -> tuple[int, ...]:
    """`MAX_ROUNDS` numbers, zero for missing rounds. ValueError if `round_sizes` does not fit the
    numbers of sequences and rows."""
    falls = list(round_sizes) == sorted(round_sizes, reverse=True)
    fits = 1 <= len(round_sizes) <= MAX_ROUNDS and sum(round_sizes) == num_rows
    if not (falls and fits and round_sizes[0] == num_sequences and min(round_sizes) > 0):
        raise ValueError(
            f"round_sizes must be 1 to {MAX_ROUNDS} falling numbers that start with "
            f"{num_sequences} (sequences) and add up to {num_rows} (rows), got {tuple(round_sizes)}"
        )
    return (*round_sizes, *[0] * (MAX_ROUNDS - len(round_sizes)))
