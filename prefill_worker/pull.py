"""Fetch a prefix from the worker that has it, or compute it? Whatever is expected to be faster."""

from __future__ import annotations

from dataclasses import dataclass, field

from segue.cache.layout import CacheLayout
from segue.cost_line import Line, prior_line

# Of a pull, beyond its transfer, before one was measured: calls, waiting for memory, checksums.
_CALLS_S = 0.01
# One pull that stalled must not end pulling for good: it is believed up to so many times what the
# handoffs, which go on to be measured, say.
_MAX_OVER_HANDOFF = 4.0


@dataclass(slots=True, kw_only=True)
class Rates:
    """What computing and moving have cost here lately. Seconds."""

    compute: Line = field(default_factory=lambda: prior_line(0.02, 1e-3))
    """Of a prompt, over its computed tokens. Before anything was measured: a middling model on a
    CPU. The fixed part is paid whether more is pulled or not, so only the slope decides."""
    move: Line = field(default_factory=lambda: prior_line(0.002, 1e-9))
    """Of a handoff's transfer, over its bytes: it shares the cores with computing."""
    pull: Line = field(default_factory=lambda: prior_line(_CALLS_S, 1e-9))
    """Of a pull, over its bytes: from the decision until the prefix is in the cache."""

    def computed(self, num_tokens: int, seconds: float) -> None:
        self.compute = self.compute.observed(num_tokens, seconds)

    def moved(self, num_bytes: int, seconds: float) -> None:
        if num_bytes:
            self.move = self.move.observed(num_bytes, seconds)

    def pulled(self, num_bytes: int, seconds: float) -> None:
        self.pull = self.pull.observed(num_bytes, seconds)

    def pull_s(self, num_bytes: int) -> float:
        """What a pull is expected to take; until one was measured, a handoff and some calls."""
        as_handoff_s = _CALLS_S + self.move.at(num_bytes)
        if not self.pull.num_observed:
            return as_handoff_s
        return min(self.pull.at(num_bytes), _MAX_OVER_HANDOFF * as_handoff_s)


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
        move_s=rates.pull_s(num_bytes),
    )
