"""The gateway's metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from segue.process.metrics_endpoint import new_registry

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


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
            "Requests that are not answered to the end.",
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "segue_http_time_to_first_token_seconds",
            "From a request's arrival to the first token of its answer, at the gateway.",
            buckets=_SECONDS,
            registry=registry,
        )
