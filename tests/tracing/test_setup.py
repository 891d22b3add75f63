"""Traces by the standard variables, and with a collector that is dead."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from segue.process.tracing import setup
from segue.process.tracing.otel import OtelTracer
from segue.process.tracing.setup import is_wanted, settings_of, tracer_of
from segue.process.tracing.tracer import NO_SPAN, OFF, Stage, Tracer

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({ENDPOINT: ""}, False),
        ({ENDPOINT: "http://c:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"}, True),
        ({ENDPOINT: "http://c:4317", "OTEL_SDK_DISABLED": "true"}, False),
        ({ENDPOINT: "http://c:4317", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({ENDPOINT: "http://c:4317", "OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_SERVICE_NAME": "segue"}, False),
    ],
)
def test_an_endpoint_turns_traces_on(environ: Mapping[str, str], wanted: bool) -> None:
    assert is_wanted(environ) is wanted


def test_other_nodes_get_the_settings_except_what_is_a_nodes_own() -> None:
    environ = {
        ENDPOINT: "http://c:4317",
        "OTEL_TRACES_SAMPLER": "always_off",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret",
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=launcher",
        "HOME": "/",
    }

    assert settings_of(environ) == {
        ENDPOINT: "http://c:4317",
        "OTEL_TRACES_SAMPLER": "always_off",
    }
    assert settings_of({"OTEL_TRACES_SAMPLER": "always_off"}) == {}


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys, router.__main__\n"
        "from segue.process.tracing.setup import tracer_of\n"
        "tracer_of('router', 'router', {})\n"
        "print([m for m in sys.modules if m.startswith('opentelemetry.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_off_it_does_nothing() -> None:
    with OFF.span("a", time.monotonic) as span:
        assert span is NO_SPAN
        assert not span.records
        span.add(Stage(name="b", started_at=0.0, ended_at=1.0))
    OFF.close()


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracer]:
    """Exports to a port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "600")
    # It tries again within a second, by default within ten.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    tracer = tracer_of("decode", "decode-0")
    yield tracer
    tracer.close()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_dead_collector_costs_neither_turns_nor_memory_nor_logs(
    protocol: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    lines: list[str] = []
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setattr(setup.logger, "warning", lambda line, **_: lines.append(line))
    logging.getLogger("opentelemetry").handlers.clear()
    tracer = request.getfixturevalue("refused")
    assert isinstance(tracer, OtelTracer)
    started_at, cpu_at = time.monotonic(), time.thread_time()
    for _ in range(1_500):
        with tracer.span("turn", time.monotonic) as span:
            span.add(Stage(name="stage", started_at=0.0, ended_at=1.0))
    each_s = (time.thread_time() - cpu_at) / 1_500
    # It has failed to export at least once by now.
    while not lines and time.monotonic() < started_at + 15:
        time.sleep(0.02)
    (processor,) = tracer._provider._active_span_processor._span_processors
    waiting = len(processor._batch_processor._queue)  # type: ignore[attr-defined]
    closing_at = time.monotonic()
    tracer.close()

    assert each_s < 0.002
    assert waiting <= 600
    assert lines == ["traces are not exported"]
    assert time.monotonic() - closing_at < 4


def test_a_setting_that_is_wrong_turns_traces_off_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {ENDPOINT: "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke-signals"}
    monkeypatch.setenv(ENDPOINT, "http://c:4317")

    assert tracer_of("router", "router", environ) is OFF
    assert "smoke-signals" in caplog.records[-1].error  # type: ignore[attr-defined]


def test_without_the_package_traces_are_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    assert tracer_of("router", "router", {ENDPOINT: "http://c:4317"}) is OFF
    assert "segue[traces]" in caplog.text


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    own = setup._resource_of("decode", "decode-0", {})
    assert (own["service.name"], own["service.instance.id"]) == ("segue-decode", "decode-0")

    named = setup._resource_of("decode", "decode-0", {"OTEL_SERVICE_NAME": "chat"})
    assert "service.name" not in named
    given = {"OTEL_RESOURCE_ATTRIBUTES": "service.namespace=prod, service.instance.id=7"}
    assert set(setup._resource_of("decode", "decode-0", given)) == {
        "service.name",
        "service.version",
    }


def test_a_sampler_decides_for_the_whole_trace() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=TraceIdRatioBased(0.0))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with OtelTracer(provider).span("turn", time.monotonic) as span:
        assert not span.records
        span.add(Stage(name="stage", started_at=0.0, ended_at=1.0))

    assert exporter.get_finished_spans() == ()
