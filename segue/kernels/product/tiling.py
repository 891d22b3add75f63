"""How the product of few rows with a weight is cut into tiles: by the weight alone."""

from __future__ import annotations

from dataclasses import dataclass

FEW_ROWS = 32
"""Most rows: eight sequences with three drafts each. A tile has all of them."""


@dataclass(frozen=True, slots=True)
class Tile:
    """The tile that one program computes, and its launch options."""

    columns: int
    """Columns of the product. For gate and up together, half are gate's."""
    depth: int
    """Terms of the sum per iteration."""
    num_warps: int
    num_stages: int


WIDE = Tile(32, 128, 4, 4)
NARROW = Tile(16, 256, 2, 5)
NARROW_OUTPUTS = 8192
"""With fewer outputs, wide tiles would be less than two for each multiprocessor."""


def tile_of(num_outputs: int) -> Tile:
    return NARROW if num_outputs < NARROW_OUTPUTS else WIDE


def tile_rows(num_rows: int) -> int:
    """One or two times the rows of the instruction, which sums each row alike."""
    return 16 if num_rows <= 16 else 32
