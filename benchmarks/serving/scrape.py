"""Reads histograms from a metrics endpoint: sum and count, and the change between two reads."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Total:
    """A histogram's total since its process started."""

    sum: float
    count: float

    def mean_since(self, earlier: Total) -> float:
        """Raises ZeroDivisionError if nothing was observed in between."""
        return (self.sum - earlier.sum) / (self.count - earlier.count)


def read_metrics(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=_TIMEOUT_S) as reply:
        text: bytes = reply.read()
    return text.decode()


def total_of(text: str, name: str) -> Total:
    """Raises KeyError if there is no histogram `name` without labels."""
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name == name and not sample.labels
    }
    return Total(values[f"{name}_sum"], values[f"{name}_count"])
