"""Fetch a prefix from the worker that has it, or compute it? Whatever is expected to be faster."""

from __future__ import annotations

from dataclasses import dataclass

from segue.cache.layout import CacheLayout

# Weight of the newest measurement in the running means.
_SMOOTHING = 0.2


@dataclass(slots=True, kw_only=True)
class Rates:
    """What computing and moving have cost here lately."""

    seconds_per_token: float = 1e-3
    """Before anything was measured: a middling model on a CPU."""
    bytes_per_s: float = 1e9
    pull_overhead_s: float = 0.02
    """Of one pull, whatever its size: four calls, and a first write."""

    def computed(self, num_tokens: int, seconds: float) -> None:
        if num_tokens > 0 and seconds > 0:
            self.seconds_per_token += _SMOOTHING * (seconds / num_tokens - self.seconds_per_token)

    def moved(self, num_bytes: int, seconds: float) -> None:
        if num_bytes > 0 and seconds > 0:
            # Of the time and not of the rate: one stalled transfer must not look like a fast link.
            mean_s = 1 / self.bytes_per_s
            self.bytes_per_s = 1 / (mean_s + _SMOOTHING * (seconds / num_bytes - mean_s))


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
        compute_s=max(held_tokens - resume_tokens, 0) * rates.seconds_per_token,
        move_s=rates.pull_overhead_s + num_bytes / rates.bytes_per_s,
    )
