"""The metrics that both kinds of workers share: memory and turns, updated with each heartbeat."""

from __future__ import annotations

from functools import partial

from prometheus_client import Counter, Gauge, Histogram

from segue.api.cluster.status import UnitCounts, WorkerLoad
from segue.cache.host.tier import HostTier
from segue.cache.prefix.cache import PrefixCache
from segue.process.metrics_endpoint import new_registry
from segue.process.telemetry import RateMeter

_STATES = ("free", "working", "cached", "reserved", "quarantined")
_SECONDS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


class WorkerMetrics:
    def __init__(self) -> None:
        self.registry = new_registry()
        self.rate = RateMeter()
        """Tokens per second: computed prompt tokens, or generated ones."""
        gauge = partial(Gauge, registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        self._pages = gauge("segue_pages", "Pages by state.", ["state"])
        self._slots = gauge("segue_slots", "Slots by state.", ["state"])
        self._strays = gauge(
            "segue_stray_units", "Units in use whose owner is gone: a leak.", ["unit"]
        )
        self._turns = gauge("segue_worker_turns", "Turns running or waiting.", ["state"])
        self._engine_silent = gauge(
            "segue_engine_silent_seconds",
            "Since the engine's last sign of progress in a pass; 0 between passes.",
        )
        self._evictions = counter(
            "segue_cache_evictions_total",
            "Pages and states evicted from the device.",
            ["unit", "to"],
        )
        self._revoked = counter(
            "segue_leases_revoked_total", "Leases revoked because memory was needed."
        )
        self._leases = gauge("segue_leases", "Sessions that hold a lease.")
        self._host_pages = gauge("segue_host_pages", "Pages of the host tier by state.", ["state"])
        self._host_slots = gauge("segue_host_slots", "Slots of the host tier by state.", ["state"])
        self._host_evictions = counter(
            "segue_host_evictions_total", "Pages and states evicted from the host tier.", ["unit"]
        )
        self._offloaded = counter(
            "segue_host_offloaded_tokens_total", "Tokens whose pages were copied to the host."
        )
        self._loaded = counter(
            "segue_host_loaded_tokens_total", "Tokens whose pages were copied back to the device."
        )
        self._load_seconds = Histogram(
            "segue_host_load_seconds",
            "One load, from its start (after queueing for other loads) until it is in the cache.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._totals: dict[Counter, int] = {}

    def loaded(self, num_tokens: int, seconds: float) -> None:
        """Counts a load from the host."""
        self._loaded.inc(num_tokens)
        self._load_seconds.observe(seconds)

    def update(
        self, load: WorkerLoad, cache: PrefixCache, tier: HostTier, *, engine_silent_s: float
    ) -> None:
        """`cache`: the device's."""
        self._engine_silent.set(engine_silent_s)
        self._leases.set(load.leased_sessions)
        self._set_load(load)
        for unit, num_evicted, num_moved in (
            ("page", cache.num_evicted_pages, cache.num_moved_pages),
            ("slot", cache.num_evicted_slots, cache.num_moved_slots),
        ):
            self._count_up_to(self._evictions.labels(unit, "host"), num_moved)
            self._count_up_to(self._evictions.labels(unit, "nowhere"), num_evicted - num_moved)
        self._count_up_to(self._revoked, cache.leases.num_revoked)
        self._count_up_to(self._host_evictions.labels("page"), tier.cache.num_evicted_pages)
        self._count_up_to(self._host_evictions.labels("slot"), tier.cache.num_evicted_slots)
        self._count_up_to(self._offloaded, tier.num_offloaded_tokens)

    def _set_load(self, load: WorkerLoad) -> None:
        self._turns.labels("running").set(load.running_turns)
        self._turns.labels("waiting").set(load.waiting_turns)
        _set_counts(self._pages, load.pages)
        _set_counts(self._slots, load.slots)
        _set_counts(self._host_pages, load.host_pages)
        _set_counts(self._host_slots, load.host_slots)
        self._strays.labels("page").set(load.pages.stray + load.host_pages.stray)
        self._strays.labels("slot").set(load.slots.stray + load.host_slots.stray)

    def _count_up_to(self, counter: Counter, total: int) -> None:
        """Adds what the cache has counted since the last heartbeat."""
        counter.inc(total - self._totals.get(counter, 0))
        self._totals[counter] = total


def _set_counts(gauge: Gauge, counts: UnitCounts) -> None:
    for state in _STATES:
        gauge.labels(state).set(getattr(counts, state))
