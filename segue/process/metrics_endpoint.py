"""Serves a process's metrics and probes over HTTP: `/metrics`, `/livez`, `/readyz`, and documents
that the process publishes.

An event loop in its own thread serves them, so that Prometheus and kubelets get answers while the
process's main loop is busy. `/livez` only shows that the process runs; `/readyz` mirrors its gRPC
health service. A connection carries one request. If there are `_MAX_CONNECTIONS` connections, a new
one replaces the one that has been silent longest.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import ssl
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import h11
from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from segue.api.errors import InvalidConfig


def new_registry() -> CollectorRegistry:
    """A registry for one process, with the Prometheus client's standard process metrics."""
    # A `_created` series for each other series would double their number, and nothing reads it.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # no annotations upstream
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    build = Gauge(
        "segue_build_info",
        "Always 1.",
        ["version"],
        registry=registry,
        multiprocess_mode="mostrecent",
    )
    build.labels(version()).set(1)
    return registry


@functools.cache  # Each look-up parses the package's metadata, with its whole README.
def version() -> str:
    """The version of this package."""
    try:
        return importlib.metadata.version("segue")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


_MAX_CONNECTIONS = 64
_REQUEST_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 10.0
_MAX_HEAD_BYTES = 16 << 10
_READ_BYTES = 4096
_BACKLOG = 128
_NUM_LAST_ROUNDS = 5
_NO_CERTIFICATE = b"expected a client certificate of this cluster's authority, got none\n"


@dataclass(frozen=True, slots=True)
class _HttpAnswer:
    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class MetricsEndpoint:
    """Serves a registry and the process's readiness until it is closed."""

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int = 0,
        *,
        announce: str = "",
        tls: ssl.SSLContext | None = None,
        needs_certificate: bool = False,
    ) -> None:
        """`announce` is the host that others dial, if different. `needs_certificate`: only clients
        with a certificate that `tls` accepts get metrics.

        Raises InvalidConfig if the port is taken.
        """
        self._registry = registry
        self._needs_certificate = needs_certificate
        self._is_ready = False
        self._published: dict[str, _HttpAnswer] = {}
        # Connections without an answer yet, oldest first.
        self._waiting: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="metrics", daemon=True)
        self._thread.start()
        try:
            self._server = self._run(
                asyncio.start_server(
                    self._accept,
                    host,
                    port,
                    backlog=_BACKLOG,
                    ssl=tls,
                    ssl_handshake_timeout=_REQUEST_TIMEOUT_S if tls else None,
                )
            )
        except OSError as error:
            self._end_thread()
            raise InvalidConfig(
                f"cannot serve metrics on {host}:{port} ({error.strerror}); stop the process that "
                "uses the port, or set another metrics port (0 lets the system choose)"
            ) from None
        self.address = f"{announce or host}:{self._server.sockets[0].getsockname()[1]}"

    def set_ready(self, is_ready: bool) -> None:
        """Sets the answer of `/readyz`."""
        self._is_ready = is_ready

    def publish(self, path: str, body: bytes, content_type: str) -> None:
        """Sets the answer of another path, with the access rules of `/metrics`. Thread-safe."""
        self._published[path] = _HttpAnswer(HTTPStatus.OK, body, content_type)

    def close(self) -> None:
        self._run(self._stop())
        self._end_thread()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        # Connections that the loop has accepted reach `_accept` in its next rounds. Aborted ones
        # are closed one round later.
        for _ in range(_NUM_LAST_ROUNDS):
            for task, writer in tuple(self._connections.items()):
                writer.transport.abort()
                task.cancel()
            await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _MAX_CONNECTIONS and self._waiting:
            self._leave(next(iter(self._waiting)))
        task = self._loop.create_task(self._serve(reader, writer))
        self._connections[task] = writer
        self._waiting[task] = writer

        def ended(task: asyncio.Task[None]) -> None:
            self._connections.pop(task, None)
            self._waiting.pop(task, None)
            writer.close()

        task.add_done_callback(ended)

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._waiting.pop(task).transport.abort()
        task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES)
        with contextlib.suppress(OSError, TimeoutError, h11.ProtocolError):
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                request = await _read_request(connection, reader)
            task = asyncio.current_task()
            assert task is not None
            self._waiting.pop(task, None)
            answer = self._answer(request, certificate=writer.get_extra_info("peercert"))
            writer.write(_written(connection, request, answer))
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                await writer.drain()

    def _answer(self, request: h11.Request | None, certificate: object) -> _HttpAnswer:
        if request is None:
            return _status_answer(HTTPStatus.BAD_REQUEST)
        try:
            path = urlsplit(request.target.decode("ascii")).path
        except ValueError:
            return _status_answer(HTTPStatus.BAD_REQUEST)
        published = self._published.get(path)
        if path not in ("/metrics", "/livez", "/readyz") and published is None:
            return _status_answer(HTTPStatus.NOT_FOUND)
        if request.method not in (b"GET", b"HEAD"):
            return _status_answer(HTTPStatus.METHOD_NOT_ALLOWED)
        if path == "/metrics" or published is not None:
            if self._needs_certificate and not certificate:
                return _HttpAnswer(HTTPStatus.FORBIDDEN, _NO_CERTIFICATE)
            return published or self._metrics(request)
        is_well = path == "/livez" or self._is_ready
        return _status_answer(HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE)

    def _metrics(self, request: h11.Request) -> _HttpAnswer:
        accepts = ",".join(
            value.decode("ascii", "replace") for name, value in request.headers if name == b"accept"
        )
        encode, content_type = choose_encoder(accepts)
        return _HttpAnswer(HTTPStatus.OK, encode(self._registry), content_type)


async def _read_request(
    connection: h11.Connection, reader: asyncio.StreamReader
) -> h11.Request | None:
    """None if it is not a request. Raises OSError if the peer closes before it has sent one."""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return None
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            raise ConnectionResetError("closed without a request")
        connection.receive_data(await reader.read(_READ_BYTES))


def _written(connection: h11.Connection, request: h11.Request | None, answer: _HttpAnswer) -> bytes:
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Connection", "close"),
    ]
    if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", "GET, HEAD"))
    head = h11.Response(
        status_code=answer.status.value, headers=headers, reason=answer.status.phrase
    )
    written = connection.send(head) or b""
    return written if request is not None and request.method == b"HEAD" else written + answer.body


def _status_answer(status: HTTPStatus) -> _HttpAnswer:
    return _HttpAnswer(status, f"{status.phrase}\n".encode())
