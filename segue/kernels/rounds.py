"""Rows that lie round by round, as kernels are told of them."""

from __future__ import annotations

from collections.abc import Sequence

MAX_ROUNDS = 8
"""Of a kernel: it holds a token of each in registers."""
SIZE_NAMES = tuple(f"size_{j}" for j in range(MAX_ROUNDS))
"""Arguments that no kernel is specialised for: they change from step to step."""


def kernel_sizes(round_sizes: Sequence[int], *, num_runs: int, num_rows: int) -> tuple[int, ...]:
    """`MAX_ROUNDS` numbers, zero where there is no round. ValueError if they are no rounds of so
    many runs and rows."""
    falls = list(round_sizes) == sorted(round_sizes, reverse=True)
    fits = 1 <= len(round_sizes) <= MAX_ROUNDS and sum(round_sizes) == num_rows
    if not (falls and fits and round_sizes[0] == num_runs and min(round_sizes) > 0):
        raise ValueError(
            f"round_sizes must be 1 to {MAX_ROUNDS} falling numbers, from the {num_runs} runs on, "
            f"that sum up to the {num_rows} rows, got {tuple(round_sizes)}"
        )
    return (*round_sizes, *[0] * (MAX_ROUNDS - len(round_sizes)))
