"""How the rows of a batch are cut into tiles of one expert each: decided on the host, by sizes.

T tokens, E experts, A experts of a token, Z = T · A pairs of a token and one of its experts.
"""

from __future__ import annotations

from dataclasses import dataclass

from segue.kernels.product.tiling import FEW_ROWS, Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """Tiles of both products, for batches with a similar number of rows per expert."""

    rows: int
    """Rows of a tile, all of one expert."""
    gate_up: Tile
    down: Tile


STREAMING = Tiling(rows=16, gate_up=Tile(32, 128, 4, 5), down=Tile(64, 128, 4, 4))
"""A few rows per expert: narrow tiles, so that the whole chip reads even if only eight experts are
used."""
MIDDLE = Tiling(rows=64, gate_up=Tile(128, 64, 4, 4), down=Tile(128, 64, 4, 4))
"""Dozens of rows per expert: still bound by reading weights, so an expert should be one tile."""
DENSE = Tiling(rows=128, gate_up=Tile(256, 64, 8, 4), down=Tile(128, 64, 8, 3))
"""More rows: bound by the tensor cores."""


def tiling_of(num_tokens: int, num_experts: int, experts_per_token: int) -> Tiling:
    """Chosen by the average rows per expert: the host knows more only after a wait. For few tokens
    it is always the same, so that their sums do not depend on their number."""
    rows_per_expert = num_tokens * experts_per_token / num_experts
    if rows_per_expert <= 6 or num_tokens <= FEW_ROWS:
        return STREAMING
    return MIDDLE if rows_per_expert <= 48 else DENSE


def max_tiles(num_tokens: int, num_experts: int, experts_per_token: int, rows: int) -> int:
    """An upper bound on the tiles: each expert with rows fills all its tiles but the last."""
    num_pairs = num_tokens * experts_per_token
    return (num_pairs + min(num_experts, num_pairs) * (rows - 1)) // rows
