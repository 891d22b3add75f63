"""What both kinds of workers measure: memory and turns. Read when Prometheus asks."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

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

    def set_load(self, load: WorkerLoad) -> None:
        self._turns.labels("running").set(load.running_turns)
        self._turns.labels("waiting").set(load.waiting_turns)
        for gauge, counts in ((self._pages, load.pages), (self._slots, load.slots)):
            for state in _STATES:
                gauge.labels(state).set(_count(counts, state))


def _count(counts: UnitCounts, state: str) -> int:
    number: int = getattr(counts, state)
    return number
