"""A few layers of a model on kernels, against the same on references, on the same device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.gpu.models import Shape, random_weights
from benchmarks.gpu.passes.prompts import PAGE_TOKENS, chunks_of, runner_of
from segue.engine.batch import DecodeChunk
from segue.kernels import dispatch

LIMITS = {torch.float32: 2e-4, torch.bfloat16: 6e-2}
"""Limits of the logits' relative RMS error: roundings add up over the layers."""
_VOCAB_SIZE = 4096
_CHUNK_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    model: str
    size: str
    error: float
    limit: float

    @property
    def is_right(self) -> bool:
        return self.error <= self.limit


def check(shape: Shape, num_tokens: int, device: str, dtype: torch.dtype) -> Iterator[ModelRow]:
    """Four layers: a prompt in chunks, then a step of four tokens."""
    small = replace(shape, num_layers=4, vocab_size=min(shape.vocab_size, _VOCAB_SIZE))
    weights = random_weights(small.config(), dtype=dtype, device=device)
    found: list[list[Tensor]] = []
    for on_kernels in (False, True):
        runner = runner_of(
            small, weights, num_pages=num_tokens // PAGE_TOKENS + 2, num_slots=6, device=device
        )
        with patch.object(dispatch, "takes_kernels", lambda _, on=on_kernels: on):
            chunks = chunks_of(num_tokens, _CHUNK_TOKENS, vocab_size=small.vocab_size)
            logits = [runner.forward([chunk]).float() for chunk in chunks]
            step = DecodeChunk(
                token_ids=[1, 2, 3, 4],
                start=num_tokens,
                page_ids=range(num_tokens // PAGE_TOKENS + 2),
                slot_in=0,
                slots_out=[1, 2, 3, 4],
            )
            found.append([*logits, runner.forward([step]).float()])
    errors = [
        float(
            (seen - wanted).double().square().mean().sqrt() / wanted.double().square().mean().sqrt()
        )
        for wanted, seen in zip(*found, strict=True)
    ]
    yield ModelRow(
        model=shape.name,
        size=f"4 layers, {num_tokens} tokens, a step of 4",
        error=max(errors),
        limit=LIMITS[dtype],
    )
