"""Fetch a prefix from the worker that has it, or compute it? Whatever is expected to be faster."""

from __future__ import annotations

from dataclasses import dataclass, field

from segue.cache.layout import CacheLayout
from segue.cost_line import Line, prior_line

# Weight of the newest measurement in a running mean.
_SMOOTHING = 0.2


@dataclass(slots=True, kw_only=True)
class Rates:
    """What computing and moving have cost here lately. Seconds."""

    compute: Line = field(default_factory=lambda: prior_line(0.02, 1e-3))
    """Of a prompt, over its computed tokens. Before anything was measured: a middling model on a
    CPU. The fixed part is paid whether more is pulled or not, so only the slope decides."""
    move: Line = field(default_factory=lambda: prior_line(0.002, 1e-9))
    """Of a transfer, over its bytes."""
    pull_overhead_s: float = 0.01
    """Of a pull, beyond its transfer: the calls, the waiting for memory, the checksums."""

    def computed(self, num_tokens: int, seconds: float) -> None:
        self.compute = self.compute.observed(num_tokens, seconds)

    def moved(self, num_bytes: int, seconds: float) -> None:
        if num_bytes:
            self.move = self.move.observed(num_bytes, seconds)

    def pulled(self, num_bytes: int, seconds: float) -> None:
        """From the decision until the prefix is in the cache."""
        overhead_s = max(seconds - self.move.at(num_bytes), 0.0)
        self.pull_overhead_s += _SMOOTHING * (overhead_s - self.pull_overhead_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullEstimate:
    compute_s: float
    move_s: float

    @property
    def pays(self) -> bool:
        return self.move_s < self.compute_s


def estimate_pull(
    layout: CacheLayout,
    rates: Rates,
    *,
    held_tokens: int,
    matched_tokens: int,
    resume_tokens: int,
) -> PullEstimate:
    """A holder has a state after `held_tokens`; here pages reach to `matched_tokens`, and computing
    would go on from `resume_tokens`.
    """
    num_pages = max(held_tokens - matched_tokens, 0) // layout.page_tokens
    num_bytes = num_pages * layout.page_bytes + layout.slot_bytes
    return PullEstimate(
        compute_s=max(held_tokens - resume_tokens, 0) * rates.compute.per_unit,
        move_s=rates.pull_overhead_s + rates.move.at(num_bytes),
    )
