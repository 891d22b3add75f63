"""The types of the dashboards, and functions that write common queries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    """A unit's name in Grafana: s, bytes, percentunit, short, reqps."""
    explains: str = ""
    empty_if: str = ""
    """When the panel has no data in a healthy cluster; shown to its reader. Empty: it always has
    data once a few turns of a session have run."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    name: str
    title: str
    panels: tuple[Panel, ...]


def one(expression: str, legend: str = "") -> tuple[Query, ...]:
    return (Query(expression, legend),)


def quantiles(
    metric: str, by: str = "", at: tuple[float, ...] = (0.5, 0.99), legend: str = ""
) -> tuple[Query, ...]:
    """Quantiles of a histogram, by default the median and the 99th percentile."""
    group = f"le, {by}" if by else "le"
    return tuple(
        Query(
            f"histogram_quantile({q}, sum by ({group}) (rate({metric}_bucket[$__rate_interval])))",
            legend or f"{_labels(by)} p{round(q * 100)}".strip(),
        )
        for q in at
    )


def rate(metric: str, by: str = "", legend: str = "") -> tuple[Query, ...]:
    return one(_rate(metric, by), legend or _labels(by))


def mean(metric: str, by: str = "", legend: str = "") -> tuple[Query, ...]:
    """The mean of a histogram's observations."""
    return share(f"{metric}_sum", f"{metric}_count", legend or _labels(by) or "mean", by)


def share(part: str, whole: str, legend: str, by: str = "") -> tuple[Query, ...]:
    """The ratio of two counters' rates."""
    return one(f"{_rate(part, by)} / {_rate(whole, by)}", legend)


def gauge(metric: str, by: str) -> tuple[Query, ...]:
    return one(f"sum by ({by}) ({metric})", _labels(by))


def _rate(metric: str, by: str) -> str:
    group = f" by ({by})" if by else ""
    return f"sum{group} (rate({metric}[$__rate_interval]))"


def _labels(by: str) -> str:
    """The legend that shows the labels in `by`, a list with commas."""
    return " ".join(f"{{{{{label}}}}}" for label in by.split(", ")) if by else ""
