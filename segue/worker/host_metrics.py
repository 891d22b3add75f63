"""The workers' metrics of their host tier."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from segue.api.cluster_status import UnitCounts, WorkerLoad
from segue.cache.host.tier import HostTier

_STATES = ("free", "working", "cached", "reserved", "quarantined")
_SECONDS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


class HostTierMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._pages = Gauge(
            "segue_host_pages", "Pages of the host tier by state.", ["state"], registry=registry
        )
        self._slots = Gauge(
            "segue_host_slots", "Slots of the host tier by state.", ["state"], registry=registry
        )
        self._evictions = Counter(
            "segue_host_evictions_total",
            "Pages and states evicted from the host tier.",
            ["unit"],
            registry=registry,
        )
        self._offloaded = Counter(
            "segue_host_offloaded_tokens_total",
            "Tokens whose pages were copied to the host.",
            registry=registry,
        )
        self._loaded = Counter(
            "segue_host_loaded_tokens_total",
            "Tokens whose pages were copied back to the device.",
            registry=registry,
        )
        self._load_seconds = Histogram(
            "segue_host_load_seconds",
            "One load, from its start (after queueing for other loads) until it is in the cache.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._seen = (0, 0, 0)

    def loaded(self, num_tokens: int, seconds: float) -> None:
        self._loaded.inc(num_tokens)
        self._load_seconds.observe(seconds)

    def set_tier(self, tier: HostTier) -> None:
        cache = tier.cache
        now = cache.num_evicted_pages, cache.num_evicted_slots, tier.num_offloaded_tokens
        pages, slots, tokens = (new - old for new, old in zip(now, self._seen, strict=True))
        self._evictions.labels("page").inc(pages)
        self._evictions.labels("slot").inc(slots)
        self._offloaded.inc(tokens)
        self._seen = now

    def set_load(self, load: WorkerLoad) -> None:
        set_counts(self._pages, load.host_pages)
        set_counts(self._slots, load.host_slots)


def set_counts(gauge: Gauge, counts: UnitCounts) -> None:
    for state in _STATES:
        gauge.labels(state).set(getattr(counts, state))
