"""From logits to tokens, for a whole batch and without the host: see docs/kernels.md."""

from __future__ import annotations

from torch import Tensor

from segue.kernels import dispatch
from segue.kernels.sampling import masks, reference
from segue.kernels.sampling.rows import (
    EVERYTHING,
    IN_PROMPT,
    MAX_FEW,
    NO_TOKEN,
    Ledger,
    SamplingFeatures,
    SamplingRows,
)

__all__ = [
    "EVERYTHING",
    "IN_PROMPT",
    "MAX_FEW",
    "NO_TOKEN",
    "Ledger",
    "SamplingFeatures",
    "SamplingRows",
    "best_allowed",
    "num_accepted",
    "observe",
    "sample",
]


def best_allowed(logits_RV: Tensor, masks_RW: Tensor) -> Tensor:
    """The best token of each row that its mask (as in `Ledger`) has, int64 [R]."""
    return masks.allowed(logits_RV, masks_RW).argmax(dim=1)


sample = dispatch.operator(reference.sample, "triton")
observe = reference.observe
num_accepted = reference.num_accepted
