"""The gateway's metrics."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

from segue.process.metrics_endpoint import new_registry

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that prometheus_client reads when it is imported."""


class GatewayMetrics:
    def __init__(self) -> None:
        self.registry = registry = new_registry()
        self.requests = Counter(
            "segue_http_requests_total",
            "Requests by route and status; a stream that failed has its error's status.",
            ["route", "status"],
            registry=registry,
        )
        self.in_flight = Gauge(
            "segue_http_requests_in_flight",
            "Requests whose answer is not complete.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.first_token_seconds = Histogram(
            "segue_http_time_to_first_token_seconds",
            "From a request's arrival to the first token of its answer, at the gateway.",
            buckets=_SECONDS,
            registry=registry,
        )

    def shown(self) -> CollectorRegistry:
        """With several gateway processes on one port, the sums: a scrape reaches any of them."""
        if SHARED_FOLDER not in os.environ:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry
