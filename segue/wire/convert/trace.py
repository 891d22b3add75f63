"""Values to protobuf and back: a turn's place in its trace."""

from __future__ import annotations

from segue.process.tracing.context import TraceContext, outgoing
from segue.v1 import session_pb2 as pb


def outgoing_to_wire() -> pb.TraceContext | None:
    """The current trace context, for a call that shares its stream with others."""
    context = outgoing()
    if context is None:
        return None
    return pb.TraceContext(traceparent=context.traceparent, tracestate=context.tracestate)


def trace_from_wire(trace: pb.TraceContext) -> TraceContext | None:
    """None if it is absent or invalid."""
    return TraceContext.of(trace.traceparent, trace.tracestate)
