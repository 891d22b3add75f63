"""The metrics port: its answers, its refusals, and the cost of idle clients."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from segue.api.errors import InvalidConfig
from segue.process import metrics_endpoint
from segue.process.metrics_endpoint import MetricsEndpoint


@pytest.fixture
def endpoint() -> Iterator[MetricsEndpoint]:
    registry = CollectorRegistry()
    Counter("things_total", "Things.", registry=registry).inc(3)
    with contextlib.closing(MetricsEndpoint(registry, "127.0.0.1")) as endpoint:
        yield endpoint


def ask(
    endpoint: MetricsEndpoint, path: str, method: str = "GET", **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(endpoint.address, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode(), reply.headers


def connect(endpoint: MetricsEndpoint) -> socket.socket:
    host, _, port = endpoint.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def test_metrics_are_served_in_the_requested_format(endpoint: MetricsEndpoint) -> None:
    status, text, headers = ask(endpoint, "/metrics")
    _, open_text, open_headers = ask(
        endpoint, "/metrics?x=1", accept="application/openmetrics-text; version=1.0.0"
    )

    assert (status, "things_total 3.0\n" in text) == (200, True)
    assert headers["Content-Type"].startswith("text/plain")
    assert open_headers["Content-Type"].startswith("application/openmetrics-text")
    assert open_text.endswith("# EOF\n")


def test_what_the_process_publishes_is_served(endpoint: MetricsEndpoint) -> None:
    before = ask(endpoint, "/targets")[0]
    endpoint.publish("/targets", b"[]", "application/json")
    endpoint.publish("/targets", b"[1]", "application/json")
    status, text, headers = ask(endpoint, "/targets")

    assert (before, status, text) == (404, 200, "[1]")
    assert headers["Content-Type"] == "application/json"
    assert ask(endpoint, "/targets", "POST")[0] == 405


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics/x", "/livez2", "/favicon.ico", "//["])
def test_every_other_path_is_not_found(endpoint: MetricsEndpoint, path: str) -> None:
    assert ask(endpoint, path)[0] == (400 if path == "//[" else 404)
    assert "things" not in ask(endpoint, path)[1]


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz"])
def test_methods_other_than_get_and_head_are_not_allowed(
    endpoint: MetricsEndpoint, path: str
) -> None:
    endpoint.set_ready(True)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        status, _, headers = ask(endpoint, path, method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")

    status, text, headers = ask(endpoint, path, "HEAD")

    assert (status, text) == (200, "")
    assert int(headers["Content-Length"]) > 0


def test_a_process_is_alive_before_and_after_it_is_ready(endpoint: MetricsEndpoint) -> None:
    def probes() -> tuple[int, int]:
        return ask(endpoint, "/livez")[0], ask(endpoint, "/readyz")[0]

    before = probes()
    endpoint.set_ready(True)
    during = probes()
    endpoint.set_ready(False)

    assert (before, during, probes()) == ((200, 503), (200, 200), (200, 503))


def test_500_idle_connections_use_no_threads_and_block_no_client(
    endpoint: MetricsEndpoint,
) -> None:
    threads = set(threading.enumerate())
    with contextlib.ExitStack() as open_ones:
        idle = [open_ones.enter_context(connect(endpoint)) for _ in range(500)]

        assert ask(endpoint, "/livez")[0] == 200
        # Connections of earlier tests may end in the meantime.
        assert set(threading.enumerate()) <= threads
        # The oldest connections were closed.
        assert closed(idle[0])


def closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nHost:"])
def test_a_client_that_does_not_finish_its_request_is_disconnected(
    endpoint: MetricsEndpoint, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_endpoint, "_REQUEST_TIMEOUT_S", 0.1)
    with connect(endpoint) as connection:
        connection.sendall(sent)

        assert closed(connection)


@pytest.mark.parametrize(
    "sent",
    [
        b"no http\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"x" * 40_000 + b"\r\n\r\n",
        b"\xff\x00\r\n\r\n",
    ],
)
def test_an_invalid_request_is_refused(endpoint: MetricsEndpoint, sent: bytes) -> None:
    with connect(endpoint) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(sent)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(4096):
                answer += part

    assert not answer or answer.startswith(b"HTTP/1.1 400 ")
    assert ask(endpoint, "/livez")[0] == 200


def test_it_answers_while_the_process_is_busy(endpoint: MetricsEndpoint) -> None:
    """As if its event loop were busy."""
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(ask(endpoint, "/livez")[0]))
    asking.start()
    give_up_at = time.monotonic() + 10
    while not answers and time.monotonic() < give_up_at:
        pass
    asking.join()

    assert answers == [200]


def test_a_closed_endpoint_leaves_nothing() -> None:
    threads = set(threading.enumerate())
    endpoint = MetricsEndpoint(CollectorRegistry(), "127.0.0.1")
    with connect(endpoint) as connection:
        # They are accepted in order.
        assert ask(endpoint, "/livez")[0] == 200
        endpoint.close()
        assert closed(connection)

    assert set(threading.enumerate()) <= threads
    with pytest.raises(ConnectionRefusedError):
        connect(endpoint)


def test_a_taken_port_is_named(endpoint: MetricsEndpoint) -> None:
    port = int(endpoint.address.rpartition(":")[2])
    threads = set(threading.enumerate())

    with pytest.raises(InvalidConfig, match=f"127.0.0.1:{port}"):
        MetricsEndpoint(CollectorRegistry(), "127.0.0.1", port)

    assert set(threading.enumerate()) <= threads


def test_the_announced_address_is_the_one_reported() -> None:
    registry = CollectorRegistry()
    with contextlib.closing(MetricsEndpoint(registry, "127.0.0.1", announce="node-7")) as endpoint:
        assert endpoint.address.startswith("node-7:")
