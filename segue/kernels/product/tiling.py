"""How a product with a weight is cut into tiles: for few rows by the weight alone."""

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
    """Terms of the sum per iteration, of weights or codes."""
    num_warps: int
    num_stages: int

    def options(self, rows: int, weight_bytes: int | None = None) -> dict[str, int]:
        """Options of a launch. A plain weight has `weight_bytes` per element: in float32 as many
        bytes of shared memory as in bfloat16."""
        return {
            "BLOCK_M": rows,
            "BLOCK_N": self.columns,
            "BLOCK_K": self.depth * 2 // weight_bytes if weight_bytes else self.depth,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }


WIDE = Tile(32, 128, 4, 4)
NARROW = Tile(16, 256, 2, 5)
NARROW_OUTPUTS = 8192
"""With fewer outputs, wide tiles would be less than two for each multiprocessor."""
QUANTIZED_ROWS, QUANTIZED = 16, Tile(32, 128, 4, 4)
"""For codes: narrow, so that the whole chip reads a small matrix. An FP8 scale is for its depth."""


def tile_of(num_outputs: int) -> Tile:
    return NARROW if num_outputs < NARROW_OUTPUTS else WIDE


def tile_rows(num_rows: int) -> int:
    """One or two times the rows of the instruction, which sums each row alike."""
    return 16 if num_rows <= 16 else 32
