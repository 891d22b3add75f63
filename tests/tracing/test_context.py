from __future__ import annotations

import logging
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from segue.process.telemetry import about_turn, setup_logging
from segue.process.tracing.context import (
    TraceContext,
    current,
    from_metadata,
    outgoing,
    outgoing_metadata,
    within,
)
from segue.v1 import session_pb2 as pb
from segue.wire.convert.trace import outgoing_to_wire, trace_from_wire

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def test_a_traceparent_names_the_trace() -> None:
    context = TraceContext.of(PARENT, "a=1")

    assert context == TraceContext(PARENT, "a=1")
    assert context.trace_id == TRACE


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        "hello",
        PARENT.upper(),
        PARENT + "-00",
        PARENT.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        "0" * 10_000,
    ],
)
def test_what_is_no_traceparent_is_none(parent: str | None) -> None:
    assert TraceContext.of(parent) is None


def test_a_later_version_may_have_more() -> None:
    context = TraceContext.of(f"01-{TRACE}-b7ad6b7169203331-01-what-follows")

    assert context is not None
    assert context.trace_id == TRACE


@pytest.mark.parametrize("state", ["x" * 513, "a=\n1", "a=ä"])
def test_a_bad_tracestate_is_left_out(state: str) -> None:
    assert TraceContext.of(PARENT, state) == TraceContext(PARENT)


def test_it_travels_as_metadata_and_as_a_message() -> None:
    assert outgoing() is None
    assert outgoing_metadata() == ()
    assert outgoing_to_wire() is None

    with within(TraceContext(PARENT, "a=1")):
        assert from_metadata(outgoing_metadata()) == TraceContext(PARENT, "a=1")
        wire = outgoing_to_wire()
        assert wire is not None
        assert trace_from_wire(wire) == TraceContext(PARENT, "a=1")

    assert current() is None
    assert trace_from_wire(pb.TraceContext()) is None
    assert from_metadata([("traceparent", b"\xff"), ("other", "x")]) is None
    assert from_metadata(None) is None


def test_a_span_of_the_application_around_the_sdk_is_the_parent() -> None:
    with trace.use_span(TracerProvider().get_tracer("an agent").start_span("step")) as span:
        context = outgoing()
        assert context is not None
        assert context.trace_id == f"{span.get_span_context().trace_id:032x}"
        # Inside a process of the cluster its own has precedence.
        with within(TraceContext(PARENT)):
            assert outgoing() == TraceContext(PARENT)


def test_log_lines_name_the_trace(tmp_path: Path) -> None:
    before, level = logging.root.handlers[:], logging.root.level
    try:
        setup_logging("router", file=tmp_path / "log")
        with about_turn("turn-1"):
            logging.getLogger("x").warning("first")
            with within(TraceContext(PARENT)):
                logging.getLogger("x").warning("second")
    finally:
        for handler in logging.root.handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.stream.close()
        logging.root.handlers[:] = before
        logging.root.setLevel(level)
    first, second = (tmp_path / "log").read_text().splitlines()

    assert "turn=turn-1 x: first" in first
    assert f"turn=turn-1 trace={TRACE} x: second" in second
