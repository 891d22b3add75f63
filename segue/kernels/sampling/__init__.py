"""From logits to tokens, for a whole batch and without the host: see docs/kernels.md."""

from __future__ import annotations

from torch import Tensor

from segue.kernels import dispatch
from segue.kernels.sampling import masks, reference
from segue.kernels.sampling.rows import (
    EVERYTHING,
    IN_PROMPT,
    NO_TOKEN,
    Ledger,
    SamplingFeatures,
    SamplingRows,
)

__all__ = [
    "EVERYTHING",
    "IN_PROMPT",
    "NO_TOKEN",
    "Ledger",
    "SamplingFeatures",
    "SamplingRows",
    "best_allowed",
    "num_accepted",
    "observe",
    "sample",
]


def sample(
    logits_RV: Tensor, rows: SamplingRows, needs: SamplingFeatures, ledger: Ledger | None = None
) -> Tensor:
    """The token of each row, int64 [R]; it depends only on the row, not on the rest of the batch.

    `logits_RV` float32, contiguous, not modified. `needs` must cover all features that any row
    uses. Masks, bias and penalties need a `ledger`, which is read-only. Greedy rows take the best
    token, the lowest id among equals; the others take the best after Gumbel noise. On a GPU nothing
    waits, so it can be captured in a graph, which then keeps the pointers of all arguments.
    """
    if dispatch.takes_kernels(logits_RV):
        from segue.kernels.sampling import triton

        return triton.sample(logits_RV, rows, needs, ledger)
    return reference.sample(logits_RV, rows, needs, ledger)


def best_allowed(logits_RV: Tensor, masks_RW: Tensor) -> Tensor:
    """The best token of each row that its mask (as in `Ledger`) has, int64 [R]."""
    return masks.allowed(logits_RV, masks_RW).argmax(dim=1)


def observe(counts_SV: Tensor, slot_D: Tensor, ids_DJ: Tensor, num_D: Tensor) -> None:
    """Counts the first `num_D` of each sequence's new tokens as part of its answer, in place.

    All int64 except the int32 counts. A sequence with `NO_SLOT` is skipped. Can be captured.
    """
    reference.observe(counts_SV, slot_D, ids_DJ, num_D)


def num_accepted(draft_ids_DK: Tensor, target_ids_DJ: Tensor, num_drafts_D: Tensor) -> Tensor:
    """Number of each sequence's leading drafts that equal the trunk's own tokens: int64 [D].

    `target_ids_DJ` [D, K + 1] holds at place j the trunk's token after j accepted drafts. Only the
    first `num_drafts_D` of a sequence's K drafts count; the rest may be anything. Can be captured.
    """
    return reference.num_accepted(draft_ids_DK, target_ids_DJ, num_drafts_D)
