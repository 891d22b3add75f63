"""What both kinds of workers measure: memory and turns, brought up to date by each heartbeat."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from segue.cache.prefix_cache import PrefixCache
from segue.types import UnitCounts, WorkerLoad

_STATES = ("free", "working", "cached", "reserved", "quarantined")


class WorkerMetrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._pages = Gauge("segue_pages", "Pages by state.", ["state"], registry=self.registry)
        self._slots = Gauge("segue_slots", "Slots by state.", ["state"], registry=self.registry)
        self._turns = Gauge(
            "segue_worker_turns", "Turns running or waiting.", ["state"], registry=self.registry
        )

        self._evictions = Counter(
            "segue_cache_evictions_total",
            "Pages and states that had to go for others.",
            ["unit"],
            registry=self.registry,
        )
        self._revoked = Counter(
            "segue_leases_revoked_total",
            "Leases that ended because memory was needed.",
            registry=self.registry,
        )
        self._leases = Gauge(
            "segue_leases", "Sessions whose memory goes last.", registry=self.registry
        )
        self._seen = (0, 0, 0)

    def set_cache(self, cache: PrefixCache) -> None:
        now = cache.num_evicted_pages, cache.num_evicted_slots, cache.leases.num_revoked
        pages, slots, revoked = (new - old for new, old in zip(now, self._seen, strict=True))
        self._evictions.labels("page").inc(pages)
        self._evictions.labels("slot").inc(slots)
        self._revoked.inc(revoked)
        self._seen = now
        self._leases.set(len(cache.leases.all()))

    def set_load(self, load: WorkerLoad) -> None:
        self._turns.labels("running").set(load.running_turns)
        self._turns.labels("waiting").set(load.waiting_turns)
        for gauge, counts in ((self._pages, load.pages), (self._slots, load.slots)):
            for state in _STATES:
                gauge.labels(state).set(_count(counts, state))


def _count(counts: UnitCounts, state: str) -> int:
    number: int = getattr(counts, state)
    return number
