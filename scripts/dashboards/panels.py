"""The dashboards as data: what each panel asks Prometheus, and why it may be empty."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    """As Grafana names units: s, bytes, percentunit, short, reqps."""
    explains: str = ""
    empty_if: str = ""
    """When the panel has no data in a healthy cluster; shown to its reader. Empty: it always has
    data once a few turns of a session have run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    name: str
    title: str
    panels: tuple[Panel, ...]


def one(expression: str, legend: str = "") -> tuple[Query, ...]:
    return (Query(expression=expression, legend=legend),)


def quantiles(metric: str, by: str = "") -> tuple[Query, ...]:
    """Median and 99th percentile of a histogram."""
    group = f"le, {by}" if by else "le"
    shown = f"{{{{{by}}}}} " if by else ""
    return tuple(
        Query(
            expression=f"histogram_quantile({q}, sum by ({group}) "
            f"(rate({metric}_bucket[$__rate_interval])))",
            legend=f"{shown}p{round(q * 100)}",
        )
        for q in (0.5, 0.99)
    )


def rate(metric: str, by: str = "", legend: str = "") -> tuple[Query, ...]:
    group = f" by ({by})" if by else ""
    shown = legend or (f"{{{{{by}}}}}" if by and "," not in by else "")
    return one(f"sum{group} (rate({metric}[$__rate_interval]))", shown)


def mean(metric: str, by: str = "", legend: str = "") -> tuple[Query, ...]:
    group = f" by ({by})" if by else ""
    return one(
        f"sum{group} (rate({metric}_sum[$__rate_interval]))"
        f" / sum{group} (rate({metric}_count[$__rate_interval]))",
        legend or (f"{{{{{by}}}}}" if by else "mean"),
    )


def gauge(metric: str, by: str) -> tuple[Query, ...]:
    return one(f"sum by ({by}) ({metric})", f"{{{{{by}}}}}")


def share(part: str, whole: str, legend: str, by: str = "") -> tuple[Query, ...]:
    """Of two counters' rates."""
    group = f" by ({by})" if by else ""

    def of(metric: str) -> str:
        return f"sum{group} (rate({metric}[$__rate_interval]))"

    return one(f"{of(part)} / {of(whole)}", legend)
