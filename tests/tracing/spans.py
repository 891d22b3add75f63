"""Spans as tests look at them, and an exporter that keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from segue.process.tracing.otel import OtelTracer
from segue.process.tracing.tracer import Tracer

ROLES = ("router", "prefill_worker", "decode_worker", "segue.gateway")


@dataclass
class Kept:
    """The spans of all processes of a cluster that runs in this one."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)

    def tracer_of(self, role: str, name: str) -> Tracer:
        provider = TracerProvider(resource=Resource({"service.instance.id": name}))
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        return OtelTracer(provider)

    def take(self) -> list[ReadableSpan]:
        """The spans that have ended since the last call, by their start."""
        spans = sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
        self.exporter.clear()
        return spans


@contextmanager
def traced_here() -> Iterator[Kept]:
    """Processes that start in this one are traced."""
    kept = Kept()
    with pytest.MonkeyPatch.context() as patch:
        for package in ROLES:
            patch.setattr(f"{package}.__main__.tracer_of", kept.tracer_of)
        yield kept


def process_of(span: ReadableSpan) -> str:
    return str(span.resource.attributes["service.instance.id"]).partition("-")[0]


def tree_of(spans: Sequence[ReadableSpan]) -> list[str]:
    """One line a span, below its parent: its process, name and error."""
    ids = {span.context.span_id for span in spans if span.context}
    lines: list[str] = []

    def add(below: int | None, depth: int) -> None:
        for span in spans:
            parent = span.parent.span_id if span.parent else None
            if (parent if parent in ids else None) == below:
                error = (span.attributes or {}).get("error.type")
                failed = f" ! {error}" if error else ""
                lines.append(f"{'  ' * depth}{process_of(span)}: {span.name}{failed}")
                assert span.context is not None
                add(span.context.span_id, depth + 1)

    add(None, 0)
    return lines


def named(spans: Sequence[ReadableSpan], name: str) -> ReadableSpan:
    (span,) = (span for span in spans if span.name == name)
    return span


def texts_of(span: ReadableSpan) -> str:
    """Everything that an exporter sends of a span."""
    events = [(event.name, dict(event.attributes or {})) for event in span.events]
    return repr((span.name, dict(span.attributes or {}), events, span.status.description))
