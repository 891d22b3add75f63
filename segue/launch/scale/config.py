"""Section `[autoscale]`: whether the launcher changes the number of workers by load."""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.cluster.fleet import WorkerCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscaleConfig:
    enabled: bool = False
    """Off: only orders and the configuration change the numbers. On: they start as configured, and
    `segue scale` may set them within the limits below.
    """
    min_prefill: int = 1
    max_prefill: int = 4
    min_decode: int = 1
    max_decode: int = 4
    queue_s: float = 1.0
    """A prefill worker is added if the next prompt is expected to wait longer than this."""
    min_tokens_per_s: float = 15.0
    """A decode worker is added if each turn gets fewer tokens a second than this. Should be above
    `[router] min_tokens_per_s`, below which turns go elsewhere or wait.
    """
    min_free_pages: float = 0.1
    """A decode worker is added if a smaller share of their pages is free or may be evicted."""
    up_after_s: float = 5.0
    """How long the need for one more worker must last: a short burst is over before a worker has
    started.
    """
    down_after_s: float = 300.0
    """How long one fewer must be enough before one leaves. Doubled, up to eight times, each time a
    worker is missed again within that time.
    """
    cooldown_s: float = 15.0
    """The time between two changes: the effect of one must show before the next."""

    def __post_init__(self) -> None:
        for role in ("prefill", "decode"):
            low, high = getattr(self, f"min_{role}"), getattr(self, f"max_{role}")
            if not 1 <= low <= high:
                raise ValueError(
                    f"min_{role} must be >= 1 and at most max_{role}, got {low} and {high}"
                )
        for name in ("queue_s", "min_tokens_per_s"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be > 0, got {getattr(self, name):g}")
        for name in ("up_after_s", "down_after_s", "cooldown_s"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name):g}")
        if not 0.0 <= self.min_free_pages < 1.0:
            raise ValueError(f"min_free_pages must be in [0, 1), got {self.min_free_pages:g}")

    def within(self, counts: WorkerCounts) -> WorkerCounts:
        """The nearest numbers within the limits."""
        return WorkerCounts(
            prefill=min(max(counts.prefill, self.min_prefill), self.max_prefill),
            decode=min(max(counts.decode, self.min_decode), self.max_decode),
        )
