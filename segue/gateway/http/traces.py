"""A request's span: what arrived, and how it was answered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from segue.process.telemetry import Clock
from segue.process.tracing.context import TRACEPARENT, TRACESTATE, TraceContext, within
from segue.process.tracing.tracer import NO_SPAN, Happened, Span, Tracer, Value

if TYPE_CHECKING:
    from segue.gateway.http.door import Visit

_SERVER_ERROR = 500


@contextlib.contextmanager
def traced(tracer: Tracer, method: str, visit: Visit, clock: Clock) -> Iterator[Span]:
    """Traces the block, if the request may have turns. The trace is the client's, if it sent one.
    The span's end is that of the block, and `answered` says what became of the request.
    """
    if not tracer.is_on or method != "POST":
        yield NO_SPAN
        return
    headers = visit.headers
    parent = TraceContext.of(headers.get(TRACEPARENT), headers.get(TRACESTATE))
    with within(parent), tracer.span(method, clock) as span:
        yield span


def answered(span: Span, method: str, route: str, visit: Visit) -> None:
    """Only routes of ours are named, and no text of a user."""
    if not span.records:
        return
    attributes: dict[str, Value] = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": visit.status,
        "segue.turn.id": visit.turn_id,
        "segue.request.id": visit.request_id,
    }
    span.rename(f"{method} {route}")
    span.describe(attributes)
    if visit.first_token_at:
        span.happened(Happened(name="first token", at=visit.first_token_at))
    if visit.status >= _SERVER_ERROR:
        span.failed(str(visit.status))
