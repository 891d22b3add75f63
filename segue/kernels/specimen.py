"""A kernel at a size that is served, for compiling it without a GPU: see `segue.kernels.aot`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segue.kernels.rounds import SIZE_NAMES

CHIPS = {"sm_90a": 90, "sm_100a": 100}
"""Hopper and Blackwell, and what Triton calls them."""

TENSOR_CORES = {"sm_90a": ("wgmma.mma_async",), "sm_100a": ("tcgen05.mma",)}
"""What a product of large tiles must become on each."""

CHANGING = frozenset(
    {
        *("num_rows", "num_elements", "num_tokens", "num_prompts", "num_segments", "num_runs"),
        *("num_blocks", "num_pieces", "num_pending", "wanted_pieces", "min_tiles"),
        *("table_stride", "first_position", "shift", *SIZE_NAMES),
    }
)
"""Integers that change from step to step. Unless a kernel has them in `do_not_specialize`, a launch
tells 1 and multiples of 16 from other numbers, and compiles for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileCase:
    """One compilation of a kernel, and what must be found in the result."""

    name: str
    """Operator, pass and size, as the table in docs/kernels.md has it."""
    kernel: Any
    """The `triton.jit` function."""
    arguments: Mapping[str, str]
    """Types of the run-time arguments in Triton's spelling: `*bf16`, `i32`, `fp32`."""
    constants: Mapping[str, object] = field(default_factory=dict)
    """Values of the `constexpr` arguments; None for a pointer that is not given."""
    aligned: frozenset[str] = frozenset()
    """Integers that are multiples of 16 whenever they are served, as all pointers are."""
    num_warps: int = 4
    num_stages: int = 3
    instructions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Chip to what its PTX must contain."""
    max_stack_bytes: int = 0
    """Local memory a thread may have: more than none is a spill, and says why where it is set."""
