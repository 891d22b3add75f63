"""Spans of OpenTelemetry's SDK, exported in the background. Imported only if traces are on.

The SDK reads the standard variables itself: sampler, limits, batches, and the exporter's endpoint,
headers, certificate and timeout. Its queue is bounded; spans beyond it are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from segue.process.tracing.context import TRACEPARENT, TRACESTATE, TraceContext, current, within
from segue.process.tracing.tracer import Attributes, Happened, Span, Stage, Tracer

_CLOSE_S = 2.0
_W3C = TraceContextTextMapPropagator()


class OtelTracer(Tracer):
    is_on = True

    def __init__(self, provider: TracerProvider, *, version: str = "") -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("segue", version or None)

    @contextlib.contextmanager
    def span(
        self, name: str, clock: Callable[[], float], *, is_server: bool = True
    ) -> Iterator[Span]:
        started_at = clock()
        # The wall clock may be adjusted while a turn runs; its spans must not jump.
        epoch_ns = time.time_ns() - _ns(started_at)
        own = self._tracer.start_span(
            name,
            context=_context_of(current()),
            kind=SpanKind.SERVER if is_server else SpanKind.INTERNAL,
            start_time=epoch_ns + _ns(started_at),
        )
        span = _OtelSpan(self._tracer, own, epoch_ns)
        try:
            with within(span.context):
                yield span
        except (asyncio.CancelledError, GeneratorExit):
            span.failed("cancelled")
            raise
        except BaseException as error:
            span.failed(type(error).__name__)
            raise
        finally:
            own.end(epoch_ns + _ns(clock()))

    def close(self) -> None:
        # A dead collector must not delay the exit.
        ending = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(_CLOSE_S)


class _OtelSpan(Span):
    def __init__(self, tracer: trace.Tracer, span: trace.Span, epoch_ns: int) -> None:
        self._tracer = tracer
        self._span = span
        self._epoch_ns = epoch_ns
        self._below = trace.set_span_in_context(span, Context())
        self._has_failed = False
        self.records = span.is_recording()
        self.trace_id = f"{span.get_span_context().trace_id:032x}" if self.records else ""

    @property
    def context(self) -> TraceContext | None:
        """The context for other processes, which follow its sampling decision."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, self._below)
        return TraceContext.of(carrier.get(TRACEPARENT), carrier.get(TRACESTATE, ""))

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def add(self, stage: Stage) -> None:
        span = self._tracer.start_span(
            stage.name,
            context=self._below,
            attributes=dict(stage.attributes),
            start_time=self._at(stage.started_at),
        )
        for event in stage.events:
            span.add_event(event.name, dict(event.attributes), self._at(event.at))
        if stage.error:
            _fail(span, stage.error)
        # A stage timed by two threads may seem to end before its start.
        span.end(self._at(max(stage.ended_at, stage.started_at)))

    def describe(self, attributes: Attributes) -> None:
        self._span.set_attributes(dict(attributes))

    def happened(self, event: Happened) -> None:
        self._span.add_event(event.name, dict(event.attributes), self._at(event.at))

    def failed(self, error: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            _fail(self._span, error)

    def _at(self, seconds: float) -> int:
        return self._epoch_ns + _ns(seconds)


def _fail(span: trace.Span, error: str) -> None:
    span.set_status(Status(StatusCode.ERROR, error))
    span.set_attribute("error.type", error)


def _context_of(parent: TraceContext | None) -> Context:
    if parent is None:
        return Context()
    carrier = {TRACEPARENT: parent.traceparent, TRACESTATE: parent.tracestate}
    return _W3C.extract(carrier, Context())


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
