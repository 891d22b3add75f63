"""Which prompts FlashInfer may compute, and which of its kernels does.

Both kernels give a query's keys to one program, tile after tile, so its sums have one order,
whatever else the pass computes. The package's own choice ("auto") would not: it takes a third
kernel, written for Ampere, for short prompts and on Blackwell, by the longest prompt of the pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

HOPPER, BLACKWELL = "fa3", "trtllm-gen"
"""The package's names of its kernels."""
HEAD_DIMS = (64, 128, 256)
TILE_TOKENS = 128
"""Queries of one head that a program takes."""
_GAINS = {HOPPER: 1.25, BLACKWELL: 2.0}
"""Expected speed beside our kernel's on a full chip (docs/kernels.md). Not measured by us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    capability: tuple[int, int]
    """For example (9, 0), of Hopper."""
    num_multiprocessors: int

    @classmethod
    def of(cls, device: torch.device) -> Self:
        properties = torch.cuda.get_device_properties(device)
        return cls(
            capability=(properties.major, properties.minor),
            num_multiprocessors=properties.multi_processor_count,
        )

    @property
    def backend(self) -> str | None:
        """The kernel for it, if there is one."""
        return {9: HOPPER, 10: BLACKWELL}.get(self.capability[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """A model's attention, or a rank's part of it."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_tokens: int
    dtype: torch.dtype
    """Of queries and outputs."""
    page_dtype: torch.dtype


def why_not(shape: AttentionShape, gpu: Gpu) -> str | None:
    """Why prompts of this shape cannot be computed on this GPU; None if they can."""
    if gpu.backend is None:
        major, minor = gpu.capability
        return f"it has no fast kernel for compute capability {major}.{minor}"
    if shape.dtype not in (torch.bfloat16, torch.float16):
        return f"queries must be in bfloat16 or float16, and are in {shape.dtype}"
    if shape.page_dtype != shape.dtype:
        return (
            f"pages must be in the dtype of queries, {shape.dtype}, and are in {shape.page_dtype}"
        )
    if shape.head_dim not in HEAD_DIMS:
        return f"the head dimension must be one of {HEAD_DIMS}, and is {shape.head_dim}"
    if shape.page_tokens & (shape.page_tokens - 1):
        return f"a page must have a power of two of tokens, and has {shape.page_tokens}"
    return None


def fills(lengths: Sequence[int], num_heads: int, gpu: Gpu) -> bool:
    """Whether prompts of these lengths keep enough of the chip busy. If not, as in a short turn
    after a long history, our kernel is faster: it splits their keys."""
    assert gpu.backend is not None, "`why_not` has an answer"
    num_tiles = num_heads * sum(-(-length // TILE_TOKENS) for length in lengths)
    return num_tiles * _GAINS[gpu.backend] >= gpu.num_multiprocessors
