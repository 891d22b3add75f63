"""The metrics of every process: its build, its memory and CPU, its interpreter."""

from __future__ import annotations

import importlib.metadata

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)


def new_registry() -> CollectorRegistry:
    """A registry for one process, with the Prometheus client's standard process metrics."""
    # A `_created` series for each other series would double their number, and nothing reads it.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # no annotations upstream
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    build = Gauge("segue_build_info", "Always 1.", ["version"], registry=registry)
    build.labels(_version()).set(1)
    return registry


def _version() -> str:
    try:
        return importlib.metadata.version("segue")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
