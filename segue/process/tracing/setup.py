"""The tracer of a process, configured by OpenTelemetry's standard variables."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from segue.process.metrics_endpoint import version
from segue.process.tracing.tracer import OFF, Tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_GRPC, _HTTP = "grpc", "http/protobuf"
_LOG_EVERY_S = 60.0
_PREFIX = "OTEL_"


def settings_of(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings with which a process on another machine exports traces like this one. Excludes
    headers, which may have secrets, and resources, which describe this machine.
    """
    if not is_wanted(environ):
        return {}
    own = ("_HEADERS", "_RESOURCE_ATTRIBUTES")
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(_PREFIX) and not name.endswith(own)
    }


def is_wanted(environ: Mapping[str, str]) -> bool:
    is_disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    is_other = environ.get("OTEL_TRACES_EXPORTER", "").strip() not in ("", "otlp")
    has_endpoint = any(environ.get(name, "").strip() for name in _ENDPOINTS)
    return has_endpoint and not is_disabled and not is_other


def tracer_of(role: str, name: str, environ: Mapping[str, str] = os.environ) -> Tracer:
    """The tracer of the process `name`, such as prefill-0. Off unless the environment names a
    collector. A wrong setting is logged and turns traces off, but does not end the process.
    """
    if not is_wanted(environ):
        return OFF
    try:
        return _exporting(role, name, environ)
    except ImportError as error:
        logger.warning(
            "traces are off: OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not "
            "installed; pip install 'segue[traces]'",
            extra={"error": str(error)},
        )
    except Exception as error:
        # The SDK raises various errors for variables that it cannot use.
        logger.warning(
            "traces are off: OpenTelemetry refuses the OTEL_ variables",
            extra={"error": f"{type(error).__name__}: {error}"},
        )
    return OFF


def _exporting(role: str, name: str, environ: Mapping[str, str]) -> Tracer:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from segue.process.tracing.otel import OtelTracer

    _quieten()
    resource = Resource.create(_resource_of(role, name, environ))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter(environ)))
    logger.info("traces are on", extra={"endpoint": _first(environ, _ENDPOINTS)})
    return OtelTracer(provider, version=version())


def _exporter(environ: Mapping[str, str]) -> SpanExporter:
    protocol = _first(environ, _PROTOCOLS) or _GRPC
    if protocol == _GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    if protocol == _HTTP:
        from opentelemetry.exporter.otlp.proto.http import trace_exporter

        return trace_exporter.OTLPSpanExporter()
    raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {_GRPC} or {_HTTP}, got {protocol!r}")


def _resource_of(role: str, name: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The resource's attributes, without those that the environment sets."""
    own = {
        "service.name": f"segue-{role}",
        "service.namespace": "segue",
        "service.instance.id": name,
        "service.version": version(),
    }
    given = environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    named = {pair.partition("=")[0].strip() for pair in given.split(",")}
    if environ.get("OTEL_SERVICE_NAME"):
        named.add("service.name")
    return {key: value for key, value in own.items() if key not in named}


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((v for name in names if (v := environ.get(name, "").strip())), "")


def _quieten() -> None:
    """Limits the SDK's log, which has a line for each batch that a collector does not accept."""
    sdk = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, _Seldom) for handler in sdk.handlers):
        sdk.addHandler(_Seldom())
    sdk.propagate = False


class _Seldom(logging.Handler):
    """Logs at most one warning a minute, through our logger and without its traceback."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._not_before = 0.0
        self._num_left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        if (now := self._clock()) < self._not_before:
            self._num_left_out += 1
            return
        left_out, self._num_left_out = self._num_left_out, 0
        self._not_before = now + _LOG_EVERY_S
        about = {"reason": record.getMessage(), "lines_left_out": left_out}
        logger.warning("traces are not exported", extra=about)
