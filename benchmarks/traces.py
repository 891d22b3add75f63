"""The cost of traces for a turn: `python -m benchmarks.traces`.

Makes the spans of a turn in each process, with the values of a real decision, off, on, and on with
a trace that the client does not sample. CPU time of the thread that runs turns, and of the
background thread that encodes them, as medians over rounds in which the ways alternate. No network.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import typer
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)

from benchmarks.harness.output import markdown
from benchmarks.harness.turns import turn_of
from benchmarks.placement.decisions import one_decision
from kv_transfer.writing.outgoing import ShipResult
from prefill_worker import traces as of_prefill
from prefill_worker.engine import Computed
from router.telemetry.traces import TurnTrace
from segue.api.turn import FinishReason, Timings, TurnEnd, Usage
from segue.api.types import SampledToken
from segue.process.tracing.context import TraceContext, within
from segue.process.tracing.otel import OtelTracer
from segue.process.tracing.tracer import OFF, Tracer

_ROUNDS = 40
_TURNS = 100
_SPEC = turn_of("turn-1", range(2_000), max_tokens=200, session_id="agent-7")
_END = TurnEnd(
    finish_reason=FinishReason.STOP,
    usage=Usage(prompt_tokens=2_000, cached_tokens=1_900, completion_tokens=180),
    timings=Timings(first_token_s=0.03),
    prefill_worker="prefill-0",
    decode_worker="decode-0",
)
_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"
_CLOCK = time.monotonic


class _Nowhere(SpanExporter):
    """Keeps the last batch, to encode it."""

    def __init__(self) -> None:
        self.batch: Sequence[ReadableSpan] = ()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.batch = spans
        return SpanExportResult.SUCCESS


def _router_turn(tracer: Tracer) -> None:
    """As `Router.generate` and its meter do for a turn with one attempt."""
    trace = TurnTrace(_CLOCK, tracer, "model")
    since = _CLOCK()
    with trace.running("chat", "turn-1", ""):
        trace.built(since, _SPEC, "agent-7")
        trace.placed(since, _DECISION)
        trace.first_token(_CLOCK())
        trace.finished(_END)
        trace.ended("stop")


def _prefill_turn(tracer: Tracer) -> None:
    with of_prefill.traced(tracer, _SPEC, _CLOCK) as times:
        times.computed = _COMPUTED
        times.shipped = _SHIPPED
        times.shipped_at = times.committed_at = _CLOCK()


_DECISION = one_decision()
_COMPUTED = Computed(
    first_token=SampledToken(token_id=1, logprob=None), started_at=0.0, ended_at=0.1
)
_SHIPPED = ShipResult(
    shipped_bytes=1 << 20,
    transfer_s=0.01,
    exposed_transfer_s=0.001,
    checksums={},
    started_at=0.0,
    arrived_at=0.1,
)


def _cpu_us(turn: Callable[[Tracer], None], tracer: Tracer, parent: TraceContext | None) -> float:
    started = time.thread_time()
    for _ in range(_TURNS):
        with within(parent):
            turn(tracer)
    return (time.thread_time() - started) / _TURNS * 1e6


def main() -> None:
    exporter = _Nowhere()
    provider = TracerProvider()
    processor = BatchSpanProcessor(exporter, max_queue_size=100_000, schedule_delay_millis=100)
    provider.add_span_processor(processor)
    on = OtelTracer(provider)
    ways: dict[str, tuple[Tracer, TraceContext | None]] = {
        "off": (OFF, None),
        "not sampled": (on, TraceContext(f"{_PARENT}0")),
        "on": (on, TraceContext(f"{_PARENT}1")),
    }
    rows = []
    for name, turn in (("router", _router_turn), ("prefill worker", _prefill_turn)):
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(_ROUNDS):
            for way, (tracer, parent) in ways.items():
                taken[way].append(_cpu_us(turn, tracer, parent))
        rows.append((name, *(f"{statistics.median(taken[way]):.1f}" for way in ways)))
    typer.echo(markdown(" | ".join(("process, µs a turn", *ways)), rows))
    provider.force_flush()
    each = []
    for _ in range(_ROUNDS):
        started = time.thread_time()
        encode_spans(exporter.batch).SerializeToString()
        each.append((time.thread_time() - started) / len(exporter.batch) * 1e6)
    typer.echo(f"background: {statistics.median(each):.1f} µs a span to encode")
    provider.shutdown()


if __name__ == "__main__":
    main()
