"""Starts a process's gRPC server, with health, reflection and error interceptor, and its metrics
endpoint.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from segue.api.errors import InvalidConfig
from segue.process.metrics_endpoint import MetricsEndpoint
from segue.security.config import OPEN, Security
from segue.security.https import https_context
from segue.wire.addresses import Hosts
from segue.wire.channel import KEEPALIVE_MS, MAX_MESSAGE_BYTES
from segue.wire.security.credentials import server_credentials
from segue.wire.security.guard import SecretInterceptor
from segue.wire.status import ErrorInterceptor

_SERVER_OPTIONS = [
    # With SO_REUSEPORT two servers would share a port's calls; a taken port must be an error.
    ("grpc.so_reuseport", 0),
    # By default a server disconnects clients that ping as often as ours.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.http2.max_ping_strikes", 0),
    # A client that vanished must not keep its turns and their places, but one on a busy machine may
    # be slow to answer.
    ("grpc.keepalive_time_ms", 2 * KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.ping_timeout_ms", 2 * KEEPALIVE_MS),
]


def _is_shown(record: logging.LogRecord) -> bool:
    """False for gRPC's traceback of a caller that hangs up during its answer, which is no error."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core")


Services = Sequence[tuple[str, Callable[[grpc.aio.Server], None]]]
"""Each service's full name, as in the .proto, and the function that adds it to a server."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A started server. Others dial `address`."""

    server: grpc.aio.Server
    health: health_aio.HealthServicer
    address: str
    service_names: tuple[str, ...]
    on_serving: Callable[[bool], None]

    async def set_serving(self, is_serving: bool) -> None:
        """Sets the health that Kubernetes probes and `grpcurl` see, for the server and each
        service."""
        self.on_serving(is_serving)
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self.service_names):
            await self.health.set(name, status)


@contextlib.asynccontextmanager
async def serving(
    host: str,
    port: int,
    services_at: Callable[[str], Services],
    *,
    announce: str = "",
    grace_s: float = 1.0,
    max_receive_bytes: int = MAX_MESSAGE_BYTES,
    security: Security = OPEN,
    serves_clients: bool = False,
    on_serving: Callable[[bool], None] = lambda is_serving: None,
) -> AsyncIterator[RunningServer]:
    """Serves what `services_at(address)` returns on `host:port`; port 0 lets the OS choose.

    gRPC refuses a message larger than `max_receive_bytes` by its header, before reading it.
    `serves_clients`: see `server_credentials`.

    The services are created when the address is known, since some send it to others. The address
    has the host `announce`, or `host` if that is empty. Health starts as NOT_SERVING, and
    `on_serving` is called with each change.

    Raises InvalidConfig if the port is taken, the certificate files cannot be used, or
    `Security.require_for` refuses the host.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_shown)
    hosts = Hosts.of(host, announce)
    security.require_for(hosts.listen)
    server = grpc.aio.server(
        interceptors=[
            ErrorInterceptor(),
            *([SecretInterceptor(security.secret)] if security.secret else []),
        ],
        options=[
            *_SERVER_OPTIONS,
            ("grpc.max_receive_message_length", max_receive_bytes),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ],
    )
    if port:
        free_port(hosts.listen, port)
    address = hosts.at(_add_port(server, f"{hosts.listen}:{port}", security, serves_clients))
    services = services_at(address)
    for _, add in services:
        add(server)
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = tuple(name for name, _ in services)
    reflection.enable_server_reflection(
        (
            *names,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        ),
        server,
    )
    running = RunningServer(server, health, address, names, on_serving)
    await running.set_serving(False)
    await server.start()
    try:
        yield running
    finally:
        await server.stop(grace_s)


def _add_port(
    server: grpc.aio.Server, listen: str, security: Security, serves_clients: bool
) -> int:
    if security.tls is None:
        return server.add_insecure_port(listen)
    credentials = server_credentials(security, serves_clients=serves_clients)
    return server.add_secure_port(listen, credentials)


def free_port(host: str, port: int, *, option: str = "--port") -> int:
    """`port` if it is free; a port that the system chooses for 0. Raises InvalidConfig.

    gRPC's own message for a taken port names neither the port nor what to do.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InvalidConfig(
                f"cannot listen on {host}:{port} ({error.strerror}); "
                f"stop the process that uses it, or choose another port with {option} "
                "(0 lets the system choose)"
            ) from None
        found: int = probe.getsockname()[1]
    return found


def metrics_endpoint(
    registry: CollectorRegistry, hosts: Hosts, port: int, security: Security
) -> MetricsEndpoint:
    """With TLS and client certificates, `/metrics` requires one. The probes do not: Kubernetes
    presents none. Raises InvalidConfig.
    """
    needs_certificate = security.tls is not None and security.client_certificates
    return MetricsEndpoint(
        registry,
        hosts.listen,
        port,
        announce=hosts.announce,
        tls=https_context(security, ssl.CERT_OPTIONAL if needs_certificate else ssl.CERT_NONE),
        needs_certificate=needs_certificate,
    )
