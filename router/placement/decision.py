"""A decision and what it was weighed against, so that it can be explained later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from router.placement.estimate import Candidate
from segue.cluster_status import WorkerStatus


class Placement(NamedTuple):
    """Where a turn runs."""

    prefill: WorkerStatus
    """Who computes the prompt: the decode worker itself where nothing is to move."""
    decode: WorkerStatus


class Decision(NamedTuple):
    placement: Placement
    chosen: Candidate
    candidates: Sequence[Candidate]
    """All that were weighed, as they came; the chosen one is among them."""

    def ranked(self) -> list[Candidate]:
        """The best first, the excluded last."""
        return sorted(self.candidates, key=lambda c: (c.excluded, c.total_s))


def estimate_error(estimated_s: float, actual_s: float) -> float:
    """How wrong an estimate was, in (-1, 1): 0.5 when it took twice as long, -0.5 when half.

    Symmetric and bounded, so that one histogram with even buckets serves milliseconds and minutes.
    """
    largest = max(estimated_s, actual_s)
    return (actual_s - estimated_s) / largest if largest > 0.0 else 0.0
