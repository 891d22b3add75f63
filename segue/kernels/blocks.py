"""Blocks of packed ranges of rows, for kernels that have a program for each block.

Ranges are packed one after the other and each is cut into its own blocks, so only the device knows
the number of blocks. With blocks of B rows, the numbers of range m start at bounds[m] // B + m: a
formula instead of a sum over the ranges before it. It leaves a few numbers unused; their programs
have nothing to do.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

NUM_INTERPRETED = 8
"""Number of multiprocessors to assume for the interpreter."""


def num_multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return NUM_INTERPRETED
    return torch.cuda.get_device_properties(device).multi_processor_count


def max_blocks(num_rows: int, num_ranges: int, block_rows: int) -> int:
    """An upper bound of the block numbers, so a grid needs nothing that only the device knows."""
    return num_rows // block_rows + num_ranges


@triton.jit
def first_block_of(bound, index, BLOCK_ROWS: tl.constexpr):
    """The number of the first block of range `index`, which starts at row `bound`."""
    return bound // BLOCK_ROWS + index


@triton.jit
def range_of_block(
    block, bounds_ptr, starts_ptr, num_ranges, BLOCK_ROWS: tl.constexpr, LOOK_AT: tl.constexpr = 64
):
    """The last range whose first block is not after `block`: its own range, if the block exists.

    Range m starts at row bounds[m], or bounds[starts[m]] if `starts` is given.
    """
    num_started = 0
    for base in range(0, num_ranges, LOOK_AT):
        index = base + tl.arange(0, LOOK_AT)
        is_range = index < num_ranges
        if starts_ptr is None:
            at = index
        else:
            at = tl.load(starts_ptr + index, mask=is_range, other=0).to(tl.int32)
        bound = tl.load(bounds_ptr + at, mask=is_range, other=0).to(tl.int32)
        has_started = is_range & (first_block_of(bound, index, BLOCK_ROWS) <= block)
        num_started += tl.sum(has_started.to(tl.int32))
    return num_started - 1
