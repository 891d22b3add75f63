"""A collector that prints traces, if there is no other: `python -m scripts.traces --port 4317`.

It takes spans over OTLP's gRPC and prints a trace once no span of it has come for some seconds:

    POST /v1/chat/completions   gateway      0.0 ▕██████████████████████████▏ 812.4 ms
      chat demo                 router       1.9 ▕██████████████████████████▏ 809.8 ms
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_QUIET_S = 6.0
"""Longer than the processes wait between two batches."""
_BAR = 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A received span. Times are in seconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    process: str
    started_at: float
    ended_at: float
    attributes: dict[str, object]
    events: tuple[tuple[str, float], ...] = ()

    @property
    def seconds(self) -> float:
        return self.ended_at - self.started_at


@dataclass(slots=True)
class Collector:
    """Takes spans. `on_trace` is called on a thread of its own."""

    spans: dict[str, list[Seen]] = field(default_factory=dict)
    _changed_at: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0
    _server: grpc.Server | None = None

    def start(self, port: int = 0) -> None:
        """`port`: 0 for any free one."""

        def export(
            request: service.ExportTraceServiceRequest, context: grpc.ServicerContext
        ) -> service.ExportTraceServiceResponse:
            self._take(request.resource_spans)
            return service.ExportTraceServiceResponse()

        handler = grpc.unary_unary_rpc_method_handler(
            export,
            request_deserializer=service.ExportTraceServiceRequest.FromString,
            response_serializer=service.ExportTraceServiceResponse.SerializeToString,
        )
        path, _, name = _METHOD[1:].partition("/")
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(path, {name: handler}),)
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.stop(0).wait()

    def take_quiet(self, quiet_s: float = _QUIET_S) -> list[list[Seen]]:
        """The traces to which nothing was added for that long."""
        now = time.monotonic()
        with self._lock:
            done = [one for one, at in self._changed_at.items() if now - at >= quiet_s]
            for trace_id in done:
                del self._changed_at[trace_id]
            return [self.spans.pop(trace_id) for trace_id in done]

    def _take(self, batches: Iterable[ResourceSpans]) -> None:
        with self._lock:
            for batch in batches:
                process = str(_values(batch.resource.attributes).get("service.instance.id", "?"))
                for scope in batch.scope_spans:
                    for span in scope.spans:
                        seen = _seen(span, process)
                        self.spans.setdefault(seen.trace_id, []).append(seen)
                        self._changed_at[seen.trace_id] = time.monotonic()


def _seen(span: WireSpan, process: str) -> Seen:
    return Seen(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        process=process,
        started_at=span.start_time_unix_nano / 1e9,
        ended_at=span.end_time_unix_nano / 1e9,
        attributes=_values(span.attributes),
        events=tuple((event.name, event.time_unix_nano / 1e9) for event in span.events),
    )


def _values(attributes: Iterable[KeyValue]) -> dict[str, object]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None


def lines_of(spans: Sequence[Seen], *, shown: Sequence[str] = ()) -> list[str]:
    """A trace as a waterfall, a line a span, with the attributes whose names start with `shown`."""
    start = min(span.started_at for span in spans)
    length = max(max(span.ended_at for span in spans) - start, 1e-9)
    ids = {span.span_id for span in spans}
    lines = [f"trace {spans[0].trace_id}"]

    def add(parent: str, depth: int) -> None:
        below = [one for one in spans if (one.parent_id if one.parent_id in ids else "") == parent]
        for span in sorted(below, key=lambda one: one.started_at):
            first = int((span.started_at - start) / length * _BAR)
            last = max(int((span.ended_at - start) / length * _BAR), first + 1)
            bar = (" " * first + "█" * (last - first))[:_BAR].ljust(_BAR)
            name = f"{'  ' * depth}{span.name}"
            error = span.attributes.get("error.type")
            lines.append(
                f"{name:<30} {span.process:<13} {(span.started_at - start) * 1e3:8.1f} "
                f"▕{bar}▏ {span.seconds * 1e3:8.1f} ms{f'  ! {error}' if error else ''}"
            )
            lines.extend(
                f"{'  ' * (depth + 2)}{key} = {value}"
                for key, value in span.attributes.items()
                if any(key.startswith(prefix) for prefix in shown)
            )
            lines.extend(
                f"{'  ' * (depth + 2)}{name} at {(at - start) * 1e3:.1f} ms"
                for name, at in span.events
            )
            add(span.span_id, depth + 1)

    add("", 0)
    return lines


def watch(collector: Collector, shown: Sequence[str], write: Callable[[str], None]) -> None:
    while True:
        for spans in collector.take_quiet():
            write("\n".join([*lines_of(spans, shown=shown), "", ""]))
        time.sleep(0.5)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.traces", description=__doc__)
    parser.add_argument("--port", type=int, default=4317)
    parser.add_argument("--show", action="append", default=[], help="attributes, by their start")
    given = parser.parse_args(arguments)
    collector = Collector()
    collector.start(given.port)
    _print(f"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{collector.port}\n")
    try:
        watch(collector, given.show, _print)
    except KeyboardInterrupt:
        collector.stop()


if __name__ == "__main__":
    main()
