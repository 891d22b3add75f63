"""From logits to tokens, a batch at once and without the host: see docs/kernels.md."""

from __future__ import annotations

from torch import Tensor

from segue.kernels import dispatch
from segue.kernels.sampling import reference
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
    "num_accepted",
    "observe",
    "sample",
]


def sample(
    logits_RV: Tensor, rows: SamplingRows, needs: SamplingFeatures, ledger: Ledger | None = None
) -> Tensor:
    """The token of each row, int64 [R]; a function of the row alone, whatever is around it.

    `logits_RV` float32, contiguous, left as they are. `needs` covers what any row asks for. A
    `ledger` is needed for bias and penalties, and only read. Greedy rows take the best token, of
    equals the lowest id; the others the best after Gumbel noise. On a GPU nothing is waited for, so
    it may be captured in a graph; pointers of everything given are then kept.
    """
    if dispatch.takes_kernels(logits_RV):
        from segue.kernels.sampling import triton

        return triton.sample(logits_RV, rows, needs, ledger)
    return reference.sample(logits_RV, rows, needs, ledger)


def observe(counts_SV: Tensor, slot_D: Tensor, ids_DJ: Tensor, num_D: Tensor) -> None:
    """Counts the first `num_D` of each sequence's new tokens, in place: they became answers.

    All int64 but the int32 counts. A sequence in `NO_SLOT` is passed over. May be captured.
    """
    reference.observe(counts_SV, slot_D, ids_DJ, num_D)


def num_accepted(draft_ids_DK: Tensor, target_ids_DJ: Tensor, num_drafts_D: Tensor) -> Tensor:
    """How many drafts of each run, from the first on, are the trunk's own tokens: int64 [D].

    `target_ids_DJ` [D, K + 1] holds the trunk's token after j accepted drafts at place j; a run has
    the first `num_drafts_D` of its K drafts, the rest may be anything. May be captured.
    """
    return reference.num_accepted(draft_ids_DK, target_ids_DJ, num_drafts_D)
