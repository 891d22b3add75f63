"""Means of histograms between two scrapes of a metrics endpoint."""

from __future__ import annotations

import contextlib

import pytest
from prometheus_client import CollectorRegistry, Histogram

from benchmarks.harness.processes import Total, read_metrics, total_of
from segue.process.metrics_endpoint import MetricsEndpoint


def test_a_mean_counts_only_values_after_the_first_scrape() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("wait_seconds", "A wait.", registry=registry)
    with contextlib.closing(MetricsEndpoint(registry, "127.0.0.1")) as endpoint:
        histogram.observe(100.0)
        before = total_of(read_metrics(endpoint.address), "wait_seconds")
        histogram.observe(1.0)
        histogram.observe(2.0)
        after = total_of(read_metrics(endpoint.address), "wait_seconds")

    assert before == Total(100.0, 1.0)
    assert after.mean_since(before) == 1.5


def test_a_missing_histogram_is_an_error() -> None:
    with pytest.raises(KeyError, match="wait_seconds_sum"):
        total_of("# TYPE other histogram\nother_sum 1\nother_count 1\n", "wait_seconds")
