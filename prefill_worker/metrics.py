"""The metrics of a prefill worker. A test freezes their names and labels."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary

from segue.api.turn import ShipReport
from segue.process.telemetry import RateMeter
from segue.worker.metrics import WorkerMetrics

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
_BYTES = tuple(float(4**n << 10) for n in range(11))
# More decode workers than any cluster has; names of later ones share a label.
_MAX_DECODE_LABELS = 256
_TOKENS = (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class _PassMetrics:
    """One forward pass over a batch of chunks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.computed_tokens = Counter(
            "segue_prefill_computed_tokens_total",
            "Prompt tokens computed.",
            registry=registry,
        )
        self.chunk_seconds = Histogram(
            "segue_prefill_chunk_seconds",
            "One forward pass over a batch of chunks.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.chunk_tokens = Histogram(
            "segue_prefill_chunk_tokens",
            "Tokens in a forward pass.",
            buckets=_TOKENS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "segue_prefill_batch_size",
            "Turns in a forward pass.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )


class _PrefixMetrics:
    """The prompt tokens that were not computed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.cached_tokens = Counter(
            "segue_prefill_cached_tokens_total",
            "Prompt tokens taken from the prefix cache.",
            registry=registry,
        )
        self.pulled_tokens = Counter(
            "segue_prefill_pulled_tokens_total",
            "Prompt tokens pulled from another worker.",
            registry=registry,
        )
        self.pulled_bytes = Counter(
            "segue_prefill_pulled_bytes_total", "Bytes pulled.", registry=registry
        )
        self.pull_seconds = Histogram(
            "segue_prefill_pull_seconds",
            "One pull, from the decision until the prefix is in the cache.",
            buckets=_SECONDS,
            registry=registry,
        )


class _HandoffMetrics:
    """From the receipt of a turn until decode has its prompt."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queue_seconds = Histogram(
            "segue_prefill_queue_seconds",
            "From the receipt of a turn until its first chunk is computed.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.seconds = Histogram(
            "segue_handoff_seconds",
            "Time that a handoff's bytes were in flight (moving) or prefill waited (exposed).",
            ["part"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.bytes = Histogram(
            "segue_handoff_bytes",
            "Bytes shipped by one handoff.",
            buckets=_BYTES,
            registry=registry,
        )
        self.ended = Counter(
            "segue_handoffs_total", "Handoffs by outcome.", ["outcome"], registry=registry
        )
        for outcome in ("committed", "stopped", "failed"):
            # A rate does not see a counter's first step from nothing to 1.
            self.ended.labels(outcome)


class _PairMetrics:
    """Handoffs by the two workers: a slow link between two nodes shows in one pair alone."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["prefill", "decode"]
        self._seconds = Summary(
            "segue_handoff_pair_seconds",
            "Time that a handoff's bytes were in flight, by worker and worker.",
            labels,
            registry=registry,
        )
        self._bytes = Summary(
            "segue_handoff_pair_bytes",
            "Bytes shipped by one handoff, by worker and worker.",
            labels,
            registry=registry,
        )
        self._names: set[str] = set()

    def shipped(self, prefill: str, decode: str, report: ShipReport) -> None:
        if len(self._names) < _MAX_DECODE_LABELS:
            self._names.add(decode)
        decode = decode if decode in self._names else "other"
        self._seconds.labels(prefill, decode).observe(report.transfer_s)
        self._bytes.labels(prefill, decode).observe(report.shipped_bytes)


class PrefillMetrics(WorkerMetrics):
    def __init__(self) -> None:
        super().__init__()
        self._passes = _PassMetrics(self.registry)
        self._prefixes = _PrefixMetrics(self.registry)
        self._handoffs = _HandoffMetrics(self.registry)
        self._pairs = _PairMetrics(self.registry)
        self.rate = RateMeter()

    def computed(self, *, num_tokens: int, num_sequences: int, seconds: float) -> None:
        """One forward pass. Called on the engine thread."""
        self._passes.computed_tokens.inc(num_tokens)
        self._passes.chunk_seconds.observe(seconds)
        self._passes.chunk_tokens.observe(num_tokens)
        self._passes.batch_size.observe(num_sequences)
        self.rate.add(num_tokens)

    def shipped(self, report: ShipReport, *, prefill: str, decode: str) -> None:
        """From the worker `prefill` to the worker `decode`."""
        self._pairs.shipped(prefill, decode, report)
        self._handoffs.ended.labels("committed").inc()
        self._prefixes.cached_tokens.inc(report.cached_tokens)
        if report.pulled_bytes:
            self._prefixes.pulled_tokens.inc(report.pulled_tokens)
            self._prefixes.pulled_bytes.inc(report.pulled_bytes)
            self._prefixes.pull_seconds.observe(report.pull_s)
        self._handoffs.queue_seconds.observe(report.queue_s)
        self._handoffs.seconds.labels("moving").observe(report.transfer_s)
        self._handoffs.seconds.labels("exposed").observe(report.exposed_transfer_s)
        self._handoffs.bytes.observe(report.shipped_bytes)

    def lost(self, outcome: str) -> None:
        """`outcome`: stopped (no longer wanted) or failed."""
        self._handoffs.ended.labels(outcome).inc()
