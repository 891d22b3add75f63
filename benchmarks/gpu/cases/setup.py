"""What all cases of a model have in common: shape, sizes, device and dtype.

The sizes are those that are served, or tiny ones for an interpreter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import LIMITS, Case
from segue.model.config import MoeConfig

Make: TypeAlias = partial[Case]
"""Makes a case with its tensors, which may take many GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    tokens: tuple[int, ...] = (1, 64, 8192)
    """Of norms, gates and attention's input."""
    page_tokens: int = 64
    page_dtype: torch.dtype | None = None
    """Of the keys and values that attention reads; None is that of the queries."""
    attention_decode: tuple[tuple[int, int], ...] = (
        *((1, 131_072), (4, 131_072), (8, 131_072), (1, 4096), (1, 32_768), (64, 32_768)),
        (1, 1 << 20),
    )
    """Number of sequences, and the context of each."""
    attention_rounds: tuple[int, ...] = (1, 4)
    """Queries of a sequence."""
    attention_prefill: tuple[tuple[int, int], ...] = ((0, 8192), (50_000, 800), (0, 50_000))
    """Tokens before a prefill chunk, and tokens in it."""
    gdn_prefill: tuple[int, ...] = (8192, 2048, 32_768)
    gdn_decode: tuple[tuple[int, int], ...] = (
        *((1, 1), (16, 1), (64, 1), (256, 1), (1, 4), (64, 4)),
    )
    """Number of sequences, and tokens of each."""
    expert_tokens: tuple[int, ...] = (1, 8, 64, 1024, 8192)
    few_rows: tuple[int, ...] = (1, 4, 32)
    """Of products with plain weights."""
    scaled_rows: tuple[int, ...] = (8192, 1024)
    """Of products whose inputs are quantised."""
    quantized_rows: tuple[int, ...] = (1, 4, 16)
    sampled_rows: tuple[int, ...] = (1, 64)


REAL = Sizes()
DRY = Sizes(
    tokens=(3,),
    attention_decode=((2, 70),),
    attention_prefill=((20, 3),),
    gdn_prefill=(70,),
    gdn_decode=((2, 2),),
    expert_tokens=(3,),
    few_rows=(2,),
    scaled_rows=(2,),
    quantized_rows=(2,),
    sampled_rows=(2,),
)


@dataclass(frozen=True, slots=True)
class Setup:
    shape: Shape
    sizes: Sizes
    device: str
    dtype: torch.dtype
    """Of activations and plain weights."""

    @property
    def limit(self) -> float:
        return LIMITS[self.dtype]

    @property
    def moe(self) -> MoeConfig:
        assert isinstance(self.shape.mlp, MoeConfig)
        return self.shape.mlp

    def randn(self, *size: int) -> Tensor:
        """In `dtype`."""
        return torch.randn(size, device=self.device, dtype=self.dtype)

    def randn_float32(self, *size: int) -> Tensor:
        return torch.randn(size, device=self.device)
