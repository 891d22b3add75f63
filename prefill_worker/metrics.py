"""The metrics of a prefill worker. A test freezes their names and labels."""

from __future__ import annotations

from functools import partial

from prometheus_client import Counter, Histogram, Summary

from segue.api.turn import ShipReport
from segue.worker.metrics import WorkerMetrics

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
_BYTES = tuple(float(4**n << 10) for n in range(11))
# More decode workers than any cluster has; names of later ones share a label.
_MAX_DECODE_LABELS = 256
_TOKENS = (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class PrefillMetrics(WorkerMetrics):
    def __init__(self) -> None:
        super().__init__()
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        summary = partial(Summary, registry=self.registry)
        self._computed_tokens = counter(
            "segue_prefill_computed_tokens_total", "Prompt tokens computed."
        )
        self._chunk_seconds = histogram(
            "segue_prefill_chunk_seconds",
            "One forward pass over a batch of chunks.",
            buckets=_SECONDS,
        )
        self._chunk_tokens = histogram(
            "segue_prefill_chunk_tokens", "Tokens in a forward pass.", buckets=_TOKENS
        )
        self._batch_size = histogram(
            "segue_prefill_batch_size",
            "Turns in a forward pass.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )
        self._cached_tokens = counter(
            "segue_prefill_cached_tokens_total", "Prompt tokens taken from the prefix cache."
        )
        self._pulled_tokens = counter(
            "segue_prefill_pulled_tokens_total", "Prompt tokens pulled from another worker."
        )
        self._pulled_bytes = counter("segue_prefill_pulled_bytes_total", "Bytes pulled.")
        self._pull_seconds = histogram(
            "segue_prefill_pull_seconds",
            "One pull, from the decision until the prefix is in the cache.",
            buckets=_SECONDS,
        )
        self._queue_seconds = histogram(
            "segue_prefill_queue_seconds",
            "From the receipt of a turn until its first chunk is computed.",
            buckets=_SECONDS,
        )
        self._handoff_seconds = histogram(
            "segue_handoff_seconds",
            "Time that a handoff's bytes were in flight (moving) or prefill waited (exposed).",
            ["part"],
            buckets=_SECONDS,
        )
        self._handoff_bytes = histogram(
            "segue_handoff_bytes", "Bytes shipped by one handoff.", buckets=_BYTES
        )
        self._handoffs = counter("segue_handoffs_total", "Handoffs by outcome.", ["outcome"])
        for outcome in ("committed", "stopped", "failed"):
            # A rate does not see a counter's first step from nothing to 1.
            self._handoffs.labels(outcome)
        # By pair of workers: a slow link between two nodes shows in one pair alone.
        self._pair_seconds = summary(
            "segue_handoff_pair_seconds",
            "Time that a handoff's bytes were in flight, by worker and worker.",
            ["prefill", "decode"],
        )
        self._pair_bytes = summary(
            "segue_handoff_pair_bytes",
            "Bytes shipped by one handoff, by worker and worker.",
            ["prefill", "decode"],
        )
        self._decode_labels: set[str] = set()

    def computed(self, *, num_tokens: int, num_sequences: int, seconds: float) -> None:
        """One forward pass. Called on the engine thread."""
        self._computed_tokens.inc(num_tokens)
        self._chunk_seconds.observe(seconds)
        self._chunk_tokens.observe(num_tokens)
        self._batch_size.observe(num_sequences)
        self.rate.add(num_tokens)

    def shipped(self, report: ShipReport, *, prefill: str, decode: str) -> None:
        """From the worker `prefill` to the worker `decode`."""
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
        decode = self._decode_label(decode)
        self._pair_seconds.labels(prefill, decode).observe(report.transfer_s)
        self._pair_bytes.labels(prefill, decode).observe(report.shipped_bytes)

    def lost(self, outcome: str) -> None:
        """`outcome`: stopped (no longer wanted) or failed."""
        self._handoffs.labels(outcome).inc()

    def _decode_label(self, decode: str) -> str:
        if len(self._decode_labels) < _MAX_DECODE_LABELS:
            self._decode_labels.add(decode)
        return decode if decode in self._decode_labels else "other"
