"""One way to start a gRPC server: services, health, reflection, the error table, a real port."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from segue.errors import InvalidConfig
from segue.wire.addresses import Hosts
from segue.wire.channel import KEEPALIVE_MS, MAX_MESSAGE_BYTES
from segue.wire.status import ErrorInterceptor

_SERVER_OPTIONS = [
    # Two servers on one port would each get half of the calls; a taken port must be an error.
    ("grpc.so_reuseport", 0),
    # By default a server hangs up on clients that ping as often as ours do.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.http2.max_ping_strikes", 0),
]


class _CallerLeft(logging.Filter):
    """A caller that hangs up just when it is answered is nobody's error. gRPC logs a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("ExecuteBatchError raised in core")


_CALLER_LEFT = _CallerLeft()

Services = Sequence[tuple[str, Callable[[grpc.aio.Server], None]]]
"""Full names, as in the .proto, and what adds each to a server."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A started server. `address` is what others dial."""

    server: grpc.aio.Server
    health: health_aio.HealthServicer
    address: str
    service_names: tuple[str, ...]
    on_serving: Callable[[bool], None]

    async def set_serving(self, is_serving: bool) -> None:
        """What Kubernetes probes and `grpcurl` see, for the server as a whole and each service."""
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
    on_serving: Callable[[bool], None] = lambda is_serving: None,
) -> AsyncIterator[RunningServer]:
    """Serves what `services_at(address)` returns on `host:port`; port 0 lets the OS choose.

    gRPC refuses a larger message than `max_receive_bytes` by its head, before it is read.

    The services are made when the address is known, since some tell it to others; its host is
    `announce`, or else `host`. Health starts as NOT_SERVING; `on_serving` hears of each change.
    Raises InvalidConfig when the port is taken.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(_CALLER_LEFT)
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor()],
        options=[
            *_SERVER_OPTIONS,
            ("grpc.max_receive_message_length", max_receive_bytes),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ],
    )
    hosts = Hosts.of(host, announce)
    if port:
        free_port(hosts.listen, port)
    address = hosts.at(server.add_insecure_port(f"{hosts.listen}:{port}"))
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


def free_port(host: str, port: int) -> int:
    """`port` if nobody listens there, for 0 one that the system chooses. Raises InvalidConfig.

    gRPC's own message for a taken port names neither the port nor what to do.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InvalidConfig(
                f"cannot listen on {host}:{port} ({error.strerror}); "
                "stop what uses it, or choose another with --port (0 lets the system choose)"
            ) from None
        found: int = probe.getsockname()[1]
    return found
