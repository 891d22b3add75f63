"""A kernel at a size that is served, to be compiled without a GPU: see `segue.kernels.aot`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from segue.kernels.draft_rounds import SIZE_NAMES

CHIPS = {"sm_90a": 90, "sm_100a": 100}
"""Hopper and Blackwell, with Triton's numbers for them."""

BLACKWELL_ULTRA = {"sm_103a": 103}
"""Compiled only where something differs from `sm_100a`."""

TENSOR_CORES = {"sm_90a": ("wgmma.mma_async",), "sm_100a": ("tcgen05.mma",)}
"""The instruction that a product of large tiles must compile to on each chip."""

CHANGING = frozenset(
    {
        *("num_rows", "num_elements", "num_tokens", "num_sequences", "num_segments"),
        *("num_blocks", "num_pieces", "num_pending", "num_parts", "num_rounds", "num_pages"),
        "num_groups",
        *("depth", "table_stride", "field_stride", "first_position", "shift", *SIZE_NAMES),
    }
)
"""Integers that change from pass to pass. Unless a kernel lists them in `do_not_specialize`, a
launch compiles separately for 1, for multiples of 16 and for other numbers."""


def of(kind: str, names: str) -> dict[str, str]:
    """Arguments of one type, by their names with spaces between them."""
    return dict.fromkeys(names.split(), kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileCase:
    """One compilation of a kernel, and what its result must contain."""

    name: str
    """Operator, pass and size, as in the table in docs/kernels.md."""
    kernel: Any
    """The `triton.jit` function."""
    arguments: Mapping[str, str]
    """Types of the run-time arguments in Triton's spelling: `*bf16`, `i32`, `fp32`."""
    constants: Mapping[str, object] = field(default_factory=dict)
    """Values of the `constexpr` arguments."""
    aligned: frozenset[str] = frozenset()
    """Integers that are always multiples of 16 when serving, as all pointers are."""
    num_warps: int = 4
    num_stages: int = 3
    instructions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Chip → what its PTX must contain."""
    early: frozenset[str] = frozenset()
    """Of a kernel that may start before earlier ones have ended (`dependent_launch`): the weights
    that it reads before it waits for them. It must read nothing else there."""
    chips: tuple[str, ...] = tuple(CHIPS)
    """Those that run it."""
    max_stack_bytes: int = 0
    """Local memory allowed per thread. More than 0 is a spill; a comment must give the reason."""

    @classmethod
    def of_launch(
        cls, *, options: Mapping[str, int], constants: Mapping[str, object], **fields: Any
    ) -> Self:
        """`options` as a launch gets them: further constants, and numbers of warps and stages."""
        blocks = dict(options)
        num_warps, num_stages = blocks.pop("num_warps"), blocks.pop("num_stages")
        return cls(
            constants={**constants, **blocks}, num_warps=num_warps, num_stages=num_stages, **fields
        )

    @property
    def all_constants(self) -> dict[str, object]:
        """With None for each pointer that is not passed."""
        pointers = [name for name in self.kernel.arg_names if name.endswith("_ptr")]
        absent = [name for name in pointers if name not in self.arguments]
        return {**dict.fromkeys(absent), **self.constants}
