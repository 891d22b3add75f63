"""A decision and its alternatives, so that it can be explained later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from router.placement.estimate import Candidate
from segue.api.cluster_status import WorkerStatus


class Placement(NamedTuple):
    """Where a turn runs."""

    prefill: WorkerStatus
    """The worker that computes the prompt; the decode worker itself for a local prefill."""
    decode: WorkerStatus


class Decision(NamedTuple):
    placement: Placement
    chosen: Candidate
    candidates: Sequence[Candidate]
    """All that were weighed, in that order; the chosen one is among them."""

    def ranked(self) -> list[Candidate]:
        """The best first, the excluded last."""
        return sorted(self.candidates, key=lambda c: (c.excluded, c.total_s))


def estimate_error(estimated_s: float, actual_s: float) -> float:
    """An estimate's error, in (-1, 1): 0.5 if it took twice as long, -0.5 if half as long.

    Symmetric and bounded, so that one histogram with even buckets serves milliseconds and minutes.
    """
    largest = max(estimated_s, actual_s)
    return (actual_s - estimated_s) / largest if largest > 0.0 else 0.0
