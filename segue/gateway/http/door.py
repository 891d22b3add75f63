"""Middleware for every request: its id, disconnect detection, metrics, a span, one log line."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segue.api.api_key import bearer_key, is_api_key
from segue.api.errors import Cancelled
from segue.gateway.http.errors import HUNG_UP
from segue.gateway.metrics import GatewayMetrics
from segue.process.cancellation import Interruptible
from segue.process.telemetry import Clock, about_turn
from segue.process.tracing.context import TRACEPARENT, TRACESTATE, TraceContext, within
from segue.process.tracing.tracer import NO_SPAN, OFF, Happened, Span, Tracer, Value

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
# A client's id is used if it is safe in logs and headers.
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_HINTS = ("x-session-id", "x-session-affinity", "session-id", "x-claude-code-session-id")
_MAX_HINT_CHARS = 256
_SCOPE_KEY = "segue.visit"
# No route reads a body of these.
_WITHOUT_BODY = ("GET", "HEAD")


@dataclass(slots=True, kw_only=True)
class Visit:
    """One HTTP request."""

    request_id: str
    turn_id: str
    """Unique, even if the client reuses a request id."""
    arrived_at: float
    headers: Headers = field(repr=False)
    has_started: bool = False
    """One of its turns has started."""
    has_ended: bool = False
    """All its turns have ended."""
    first_token_at: float = 0.0
    """When its first token arrived; 0.0 before."""
    status: int = 0
    """The status that was sent, or that of the error if a stream failed later; 0 before."""

    @classmethod
    def of(cls, scope: Scope, arrived_at: float) -> Visit:
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        made = secrets.token_hex(12)
        is_sane = _SANE_ID.fullmatch(given) is not None
        return cls(
            request_id=given if is_sane else made,
            turn_id=f"{given}-{made[:8]}" if is_sane else made,
            arrived_at=arrived_at,
            headers=headers,
        )

    def api_key(self) -> str:
        """From OpenAI's header, or else Anthropic's; empty if there is no well-formed one. Only the
        router decides whether a key is needed.
        """
        key = bearer_key(self.headers.getlist("authorization"))
        if not key and len(given := set(self.headers.getlist("x-api-key"))) == 1:
            key = given.pop()
        return key if is_api_key(key) else ""

    def session_hint(self, *others: str | None) -> str:
        """The client's name for the conversation: a header, or one of `others` from the body. The
        router finds sessions by their messages, so any name will do, or none.
        """
        for hint in (*map(self.headers.get, _HINTS), *others):
            if hint and hint.isprintable():
                return hint[:_MAX_HINT_CHARS]
        return ""


def visit_of(scope: Scope) -> Visit:
    visit = scope[_SCOPE_KEY]
    assert isinstance(visit, Visit)
    return visit


class Door:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: GatewayMetrics,
        tracer: Tracer = OFF,
        clock: Clock = time.monotonic,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._tracer = tracer
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = scope[_SCOPE_KEY] = Visit.of(scope, self._clock())
        with (
            about_turn(visit.request_id),
            self._metrics.in_flight.track_inprogress(),
            _traced(self._tracer, scope["method"], visit, self._clock) as span,
        ):
            passage = _Passage(visit, receive, send)
            try:
                await passage.run(self._app, scope)
            except Cancelled:
                visit.status = HUNG_UP
            finally:
                self._ended(visit, scope, span)

    def _ended(self, visit: Visit, scope: Scope, span: Span) -> None:
        # Only our own paths: a client may request any.
        route = getattr(scope.get("route"), "path", "other")
        visit.status = status = visit.status or 500
        _describe(span, scope["method"], route, visit)
        self._metrics.requests.labels(route, str(status)).inc()
        seconds = round(self._clock() - visit.arrived_at, 3)
        logger.info("answered", extra={"route": route, "status": status, "seconds": seconds})


class _Passage:
    """Wraps `receive` and `send` of one request."""

    def __init__(self, visit: Visit, receive: Receive, send: Send) -> None:
        self._visit = visit
        self._receive = receive
        self._send = send
        self._work = Interruptible()
        self._is_read = asyncio.Event()
        self._is_answered = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Raises Cancelled if the client hung up, after the application has cleaned up."""
        if scope["method"] in _WITHOUT_BODY:
            self._is_read.set()
        watch = asyncio.create_task(self._watch())
        try:
            await self._work.run(app(scope, self._read, self._answer))
        finally:
            watch.cancel()

    async def _read(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._is_read.set()
        return message

    async def _watch(self) -> None:
        # Until then the application reads, and sees a disconnect itself.
        await self._is_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        # The server also reports a disconnect after a complete answer.
        if not self._is_answered:
            self._work.interrupt(Cancelled("the client hung up"))

    async def _answer(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._visit.status = message["status"]
            headers = MutableHeaders(raw=message["headers"])
            headers[REQUEST_ID] = self._visit.request_id
            # Anthropic's name for it.
            headers["request-id"] = self._visit.request_id
            message["headers"] = headers.raw
        elif not message.get("more_body", False):
            self._is_answered = True
        await self._send(message)


@contextlib.contextmanager
def _traced(tracer: Tracer, method: str, visit: Visit, clock: Clock) -> Iterator[Span]:
    """Traces the block if the request may have turns, as part of the client's trace if it sent one.
    `_describe` adds the outcome.
    """
    if not tracer.is_on or method != "POST":
        yield NO_SPAN
        return
    headers = visit.headers
    parent = TraceContext.of(headers.get(TRACEPARENT), headers.get(TRACESTATE))
    with within(parent), tracer.span(method, clock) as span:
        yield span


def _describe(span: Span, method: str, route: str, visit: Visit) -> None:
    """Names only our own routes, and no text of a user."""
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
    if visit.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        span.failed(str(visit.status))
