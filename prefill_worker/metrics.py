"""What a prefill worker measures. Names and labels are frozen by a test."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from segue.telemetry import RateMeter
from segue.types import ShipReport
from segue.worker_metrics import WorkerMetrics

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
_BYTES = tuple(float(4**n << 10) for n in range(11))
_TOKENS = (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class PrefillMetrics(WorkerMetrics):
    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self._computed_tokens = Counter(
            "segue_prefill_computed_tokens_total",
            "Prompt tokens computed.",
            registry=registry,
        )
        self._cached_tokens = Counter(
            "segue_prefill_cached_tokens_total",
            "Prompt tokens taken from the prefix cache.",
            registry=registry,
        )
        self._pulled_tokens = Counter(
            "segue_prefill_pulled_tokens_total",
            "Prompt tokens fetched from a worker that held them.",
            registry=registry,
        )
        self._pulled_bytes = Counter(
            "segue_prefill_pulled_bytes_total", "Bytes of them.", registry=registry
        )
        self._pull_seconds = Histogram(
            "segue_prefill_pull_seconds",
            "One pull, from the decision until it is in the cache.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._chunk_seconds = Histogram(
            "segue_prefill_chunk_seconds",
            "One forward pass over a batch of chunks.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._chunk_tokens = Histogram(
            "segue_prefill_chunk_tokens",
            "Tokens of a forward pass.",
            buckets=_TOKENS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "segue_prefill_batch_size",
            "Turns in a forward pass.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self._queue_seconds = Histogram(
            "segue_prefill_queue_seconds",
            "From the receipt of a turn until its first chunk is computed.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._handoff_seconds = Histogram(
            "segue_handoff_seconds",
            "Time of a handoff in which bytes were moving (moving) or prefill waited (exposed).",
            ["part"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._handoff_bytes = Histogram(
            "segue_handoff_bytes",
            "Bytes shipped by one handoff.",
            buckets=_BYTES,
            registry=registry,
        )
        self._handoffs = Counter(
            "segue_handoffs_total", "Handoffs by how they ended.", ["outcome"], registry=registry
        )
        self.rate = RateMeter()

    def computed(self, *, num_tokens: int, num_sequences: int, seconds: float) -> None:
        """One forward pass. Called on the engine thread."""
        self._computed_tokens.inc(num_tokens)
        self._chunk_seconds.observe(seconds)
        self._chunk_tokens.observe(num_tokens)
        self._batch_size.observe(num_sequences)
        self.rate.add(num_tokens)

    def shipped(self, report: ShipReport) -> None:
        self._handoffs.labels("committed").inc()
        self._cached_tokens.inc(report.cached_tokens)
        if report.pulled_bytes:
            self._pulled_tokens.inc(report.pulled_tokens)
            self._pulled_bytes.inc(report.pulled_bytes)
            self._pull_seconds.observe(report.pull_s)
        self._queue_seconds.observe(report.queue_s)
        self._handoff_seconds.labels("moving").observe(report.transfer_s)
        self._handoff_seconds.labels("exposed").observe(report.exposed_transfer_s)
        self._handoff_bytes.observe(report.shipped_bytes)

    def lost(self, outcome: str) -> None:
        """`outcome`: stopped (nobody wants it) or failed."""
        self._handoffs.labels(outcome).inc()
