"""Opens gRPC channels, all with the same options."""

from __future__ import annotations

from typing import Any

import grpc

from segue.api.errors import InvalidRequest
from segue.security.config import OPEN, Security
from segue.wire.security.secured import SecuredChannel

# A prompt of a million token ids is about 3 MB as varints; gRPC's own limit is 4 MB.
MAX_MESSAGE_BYTES = 64 << 20
KEEPALIVE_MS = 10_000
# HealthCheckResponse(status=SERVING): field 1, a varint, 1.
_SERVING = b"\x08\x01"
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    # gRPC uses the longer of two limits for a ping's answer, by default a minute.
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A connection that breaks while it is idle must not delay the next call.
    ("grpc.keepalive_permit_without_calls", 1),
    # A new channel opens its own connection, since a shared one may be half open.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Time limit for one attempt to connect: a dead host does not answer.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


def channel_to(address: str, security: Security = OPEN) -> grpc.aio.Channel:
    """A channel that gives up on a silent peer, so that a dead host does not hang a turn. Raises
    InvalidConfig if the certificate files cannot be used.
    """
    if security.tls is None and security.secret is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return SecuredChannel(address, _OPTIONS, security)


async def is_serving(channel: grpc.aio.Channel, timeout_s: float) -> bool:
    """Calls the server's health service without the package of its messages, which a client would
    need only for this."""
    check: grpc.aio.UnaryUnaryMultiCallable[None, bytes] = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=lambda nothing: b"",
        response_deserializer=bytes,
    )
    return await check(None, timeout=timeout_s) == _SERVING


def require_sendable(what: str, size_bytes: int) -> None:
    """Raises InvalidRequest for a message that no server accepts: a retry would not help."""
    if size_bytes > MAX_MESSAGE_BYTES:
        raise InvalidRequest(
            f"{what} has {size_bytes} bytes, and a message may have at most {MAX_MESSAGE_BYTES}: "
            "shorten it"
        )
