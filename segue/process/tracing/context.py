"""The place of a turn in its trace, in the format of W3C Trace Context.

Within a process it is a context variable, which log lines and calls to other processes read.
"""

from __future__ import annotations

import contextlib
import contextvars
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
_MAX_STATE_CHARS = 512
# Version 00, and later versions, which may have further fields at their end.
_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
_MAX_PARENT_CHARS = 256
# The characters of tracestate: printable ASCII.
_STATE = re.compile(r"[\x20-\x7e\t]*")

Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The parent of further spans."""

    traceparent: str
    tracestate: str = ""

    @classmethod
    def of(cls, traceparent: str | None, tracestate: str | None = "") -> TraceContext | None:
        """None for absent or invalid values: a new trace then starts."""
        if not traceparent or len(traceparent) > _MAX_PARENT_CHARS:
            return None
        parent, state = traceparent.strip(), tracestate or ""
        if _PARENT.fullmatch(parent) is None or (parent[:2] == "00" and len(parent) != 55):
            return None
        is_state = len(state) <= _MAX_STATE_CHARS and _STATE.fullmatch(state) is not None
        return cls(parent, state if is_state else "")

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.traceparent[3:35]

    def metadata(self) -> Metadata:
        """For a gRPC call."""
        parent = ((TRACEPARENT, self.traceparent),)
        return (*parent, (TRACESTATE, self.tracestate)) if self.tracestate else parent


_current: contextvars.ContextVar[TraceContext | None] = contextvars.ContextVar(
    "trace", default=None
)


def current() -> TraceContext | None:
    return _current.get()


@contextlib.contextmanager
def within(context: TraceContext | None) -> Iterator[None]:
    """Makes `context` the current one in the block; None changes nothing."""
    if context is None:
        yield
        return
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def outgoing() -> TraceContext | None:
    """The context for calls to other processes: the current one, or that of the application around
    the SDK if it uses OpenTelemetry."""
    if (own := _current.get()) is not None:
        return own
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    span = api.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return TraceContext(
        f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}",
        span.trace_state.to_header(),
    )


def outgoing_metadata() -> Metadata:
    context = outgoing()
    return () if context is None else context.metadata()


def from_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> TraceContext | None:
    """The context that came with a gRPC call."""
    found = {name: value for name, value in metadata or () if name in (TRACEPARENT, TRACESTATE)}
    parent, state = found.get(TRACEPARENT), found.get(TRACESTATE, "")
    if not isinstance(parent, str) or not isinstance(state, str):
        return None
    return TraceContext.of(parent, state)
