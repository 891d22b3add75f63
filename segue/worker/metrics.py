"""The metrics that both kinds of workers share: memory and turns, updated with each heartbeat."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from segue.api.cluster.status import UnitCounts, WorkerLoad
from segue.cache.host.tier import HostTier
from segue.cache.prefix.cache import PrefixCache
from segue.process.metrics_endpoint import new_registry

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


_FATES = (("page", "host"), ("page", "nowhere"), ("slot", "host"), ("slot", "nowhere"))


class WorkerMetrics:
    def __init__(self) -> None:
        self.registry = new_registry()
        self._pages = Gauge("segue_pages", "Pages by state.", ["state"], registry=self.registry)
        self._slots = Gauge("segue_slots", "Slots by state.", ["state"], registry=self.registry)
        self._strays = Gauge(
            "segue_stray_units",
            "Units in use whose owner is gone: a leak.",
            ["unit"],
            registry=self.registry,
        )
        self._turns = Gauge(
            "segue_worker_turns", "Turns running or waiting.", ["state"], registry=self.registry
        )
        self._engine_silent = Gauge(
            "segue_engine_silent_seconds",
            "Since the engine's last sign of progress in a pass; 0 between passes.",
            registry=self.registry,
        )
        self._evictions = Counter(
            "segue_cache_evictions_total",
            "Pages and states evicted from the device.",
            ["unit", "to"],
            registry=self.registry,
        )
        self._host = HostTierMetrics(self.registry)
        self._revoked = Counter(
            "segue_leases_revoked_total",
            "Leases revoked because memory was needed.",
            registry=self.registry,
        )
        self._leases = Gauge("segue_leases", "Sessions that hold a lease.", registry=self.registry)
        self._seen = (0, 0, 0, 0, 0)

    def loaded(self, num_tokens: int, seconds: float) -> None:
        """Counts a load from the host."""
        self._host.loaded(num_tokens, seconds)

    def set_cache(self, cache: PrefixCache, tier: HostTier) -> None:
        now = (
            cache.num_moved_pages,
            cache.num_evicted_pages - cache.num_moved_pages,
            cache.num_moved_slots,
            cache.num_evicted_slots - cache.num_moved_slots,
            cache.leases.num_revoked,
        )
        *gone, revoked = (new - old for new, old in zip(now, self._seen, strict=True))
        for (unit, to), number in zip(_FATES, gone, strict=True):
            self._evictions.labels(unit, to).inc(number)
        self._revoked.inc(revoked)
        self._seen = now
        self._leases.set(len(cache.leases.sessions() | tier.cache.leases.sessions()))
        self._host.set_tier(tier)

    def set_engine(self, silent_s: float) -> None:
        self._engine_silent.set(silent_s)

    def set_load(self, load: WorkerLoad) -> None:
        self._turns.labels("running").set(load.running_turns)
        self._turns.labels("waiting").set(load.waiting_turns)
        set_counts(self._pages, load.pages)
        set_counts(self._slots, load.slots)
        self._strays.labels("page").set(load.pages.stray + load.host_pages.stray)
        self._strays.labels("slot").set(load.slots.stray + load.host_slots.stray)
        self._host.set_load(load)
