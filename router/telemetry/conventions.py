"""The router's metrics under other tools' names: OpenTelemetry's, and optionally vLLM's.

OpenTelemetry's GenAI convention specifies buckets as well as names, so its histograms are observed
besides ours. Metrics with vLLM's names are derived from our own at each scrape.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TypeAlias

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from segue.api.cluster.status import UnitCounts
from segue.api.types import ChatInput, TurnInput

_DURATION_BUCKETS = tuple(0.01 * 2**n for n in range(14))
_FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)
_OUTPUT_TOKEN_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)
Exemplar: TypeAlias = dict[str, str] | None
"""Names the trace of an observed value."""
_ANSWERED = frozenset({"stop", "length"})


def operation_of(turn_input: TurnInput) -> str:
    """The convention's name for a turn."""
    return "chat" if isinstance(turn_input, ChatInput) else "text_completion"


class GenAiMetrics:
    """`gen_ai.server.*` of OpenTelemetry's semantic conventions, as Prometheus spells them."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        labels = ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"]
        histogram = partial(Histogram, registry=registry)
        self._model_name = model_name
        self._first_token_s = histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the receipt of a turn to its first token.",
            labels,
            buckets=_FIRST_TOKEN_BUCKETS,
        )
        self._output_token_s = histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time per token after the first, of finished answers.",
            labels,
            buckets=_OUTPUT_TOKEN_BUCKETS,
        )
        self._duration_s = histogram(
            "gen_ai_server_request_duration_seconds",
            "From the receipt of a turn to its end.",
            [*labels, "error_type"],
            buckets=_DURATION_BUCKETS,
        )

    def first_token(self, operation: str, seconds: float, exemplar: Exemplar = None) -> None:
        labels = operation, "segue", self._model_name
        self._first_token_s.labels(*labels).observe(seconds, exemplar)

    def output_token(self, operation: str, seconds: float) -> None:
        self._output_token_s.labels(operation, "segue", self._model_name).observe(seconds)

    def ended(
        self, operation: str, outcome: str, seconds: float, exemplar: Exemplar = None
    ) -> None:
        """An empty label is absent: a turn without an error has no `error_type`."""
        error_type = "" if outcome in _ANSWERED else outcome
        labels = operation, "segue", self._model_name, error_type
        self._duration_s.labels(*labels).observe(seconds, exemplar)


class VllmNames(Collector):
    """Shows our metrics under vLLM's names, for dashboards, scalers and routers that read those."""

    def __init__(
        self,
        registry: CollectorRegistry,
        model_name: str,
        same: dict[str, MetricWrapperBase],
        turns: MetricWrapperBase,
    ) -> None:
        """`same`: our metrics by vLLM's names. `turns`: counts turns by outcome."""
        self._model_name = model_name
        self._same = same
        self._turns = turns
        self._kv_cache_usage = Gauge(
            "vllm:kv_cache_usage_perc",
            "Share of decode workers' pages in use, from 0 to 1; cached pages count as free.",
            ["model_name"],
            registry=registry,
        )
        registry.register(self)

    def set_pages(self, counts: Iterable[UnitCounts]) -> None:
        """The pages of the decode workers, from their heartbeats."""
        total = used = 0
        for pages in counts:
            total += pages.total
            used += pages.total - pages.free - pages.cached
        self._kv_cache_usage.labels(self._model_name).set(used / total if total else 0.0)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        for name, metric in self._same.items():
            (family,) = metric.collect()
            yield self._renamed(name, family)
        yield self._successes()

    def _renamed(self, name: str, family: Metric) -> Metric:
        """The family summed over its labels, which vLLM does not have."""
        sums: dict[tuple[str, str | None], float] = defaultdict(float)
        for sample in family.samples:
            suffix = sample.name.removeprefix(family.name)
            sums[suffix, sample.labels.get("le")] += sample.value
        metric = Metric(name, family.documentation, family.type)
        metric.samples = [
            Sample(name + suffix, self._labels() | ({"le": le} if le is not None else {}), value)
            for (suffix, le), value in sums.items()
        ]
        return metric

    def _successes(self) -> Metric:
        (family,) = self._turns.collect()
        reasons = {
            "stop": "stop",
            "length": "length",
            "cancelled": "abort",
            "disconnected": "abort",
        }
        counts = dict.fromkeys(reasons.values(), 0.0)
        for sample in family.samples:
            if (reason := reasons.get(sample.labels.get("outcome", ""))) is not None:
                counts[reason] += sample.value
        metric = Metric("vllm:request_success", "Turns by how they ended.", "counter")
        metric.samples = [
            Sample("vllm:request_success_total", self._labels() | {"finished_reason": r}, count)
            for r, count in counts.items()
        ]
        return metric

    def _labels(self) -> dict[str, str]:
        return {"model_name": self._model_name}
