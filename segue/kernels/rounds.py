"""Kernel arguments for rows that are stored round by round."""

from __future__ import annotations

from collections.abc import Sequence

MAX_ROUNDS = 8
"""Limit for a kernel, which holds a token of each round in registers."""
SIZE_NAMES = tuple(f"size_{j}" for j in range(MAX_ROUNDS))
"""Arguments that no kernel specialises on: they change from step to step."""


def kernel_sizes(round_sizes: Sequence[int], *, num_runs: int, num_rows: int) -> tuple[int, ...]:
    """`MAX_ROUNDS` numbers, zero for missing rounds. ValueError if `round_sizes` does not fit the
    numbers of runs and rows."""
    falls = list(round_sizes) == sorted(round_sizes, reverse=True)
    fits = 1 <= len(round_sizes) <= MAX_ROUNDS and sum(round_sizes) == num_rows
    if not (falls and fits and round_sizes[0] == num_runs and min(round_sizes) > 0):
        raise ValueError(
            f"round_sizes must be 1 to {MAX_ROUNDS} falling numbers that start with {num_runs} "
            f"(runs) and add up to {num_rows} (rows), got {tuple(round_sizes)}"
        )
    return (*round_sizes, *[0] * (MAX_ROUNDS - len(round_sizes)))
