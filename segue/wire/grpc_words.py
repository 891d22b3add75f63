"""Turns gRPC's own errors, for calls that no Segue method answered, into Segue's errors.

Only gRPC's details tell most errors apart: all connection failures have status UNAVAILABLE.
"""

from __future__ import annotations

import re

import grpc

from segue.api import errors

_TOO_LARGE = re.compile(r"message larger than max \((\d+) vs\. (\d+)\)")
_NO_GRPC = ("failed parsing http/2", "received http2 header with status", "http1.x server")
_NO_HOST = ("errors resolving", "lookup failed", "domain name not found", "dns resolution failed")
_NO_CONNECTION = ("failed to connect", "connection refused", *_NO_HOST)
_BROKEN = (
    *("socket closed", "stream removed", "connection reset", "broken pipe", "goaway"),
    "cancelling all calls",
)
# The server accepted the connection, and closed it before HTTP/2 started.
_NEVER_CONNECTED = "failed to connect"
_NO_TLS = "wrong_version_number"
_EXPIRED = "certificate has expired"
_UNTRUSTED = "certificate_verify_failed"
_OTHER_NAME = "hostname verification"
_TIMED_OUT = "deadline exceeded"
# From the client's own side: the call ended while it was sending, for an unknown reason.
_CUT_OFF = "internal error from core"

CLOSED_AT_ONCE = (
    "it closes each connection before any answer: it may need TLS, or refuse this process's "
    "certificate (none, expired, or of another authority); its log has the reason"
)

_ERROR_OF: dict[grpc.StatusCode, type[errors.SegueError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
}


def error_in_words(rpc_error: grpc.aio.AioRpcError, peer: str) -> errors.SegueError:
    """The nearest kind of error, for a call that the server's method did not answer."""
    code, details = rpc_error.code(), rpc_error.details() or rpc_error.code().name
    lowered = details.lower()
    if (sizes := _TOO_LARGE.search(details)) is not None:
        # A retry would fail too.
        return errors.ContextOverflow(
            f"the prompt is too long: the request has {sizes[1]} bytes, but at most {sizes[2]} are "
            "accepted: shorten it"
        )
    if _TIMED_OUT in lowered:
        return errors.DeadlineExceeded(f"{peer}: no complete answer within the deadline")
    if any(phrase in lowered for phrase in _NO_GRPC):
        return errors.Unavailable(
            f"{peer}: the server there does not speak gRPC: is it Segue's router?"
        )
    if _CUT_OFF in lowered:
        return errors.Unavailable.unreachable(f"{peer}: it ended the call early", was_sent=True)
    if is_unserved(rpc_error):
        return errors.Unavailable.unreachable(
            f"{peer}: the server there does not have this method: it is another service, or of "
            "another version",
            was_sent=False,
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        was_sent = not any(phrase in lowered for phrase in _NO_CONNECTION)
        message = f"{peer}: {_unavailable(lowered) or details}"
        return errors.Unavailable.unreachable(message, was_sent=was_sent)
    return nearest(code)(f"{peer}: {details}")


def nearest(code: grpc.StatusCode | None) -> type[errors.SegueError]:
    """The kind of error for a status code alone."""
    return errors.SegueError if code is None else _ERROR_OF.get(code, errors.SegueError)


def is_refused(rpc_error: grpc.aio.AioRpcError) -> bool:
    """Whether nothing listens at the peer's address."""
    lowered = (rpc_error.details() or "").lower()
    return rpc_error.code() is grpc.StatusCode.UNAVAILABLE and "connection refused" in lowered


def is_closed_at_once(rpc_error: grpc.aio.AioRpcError) -> bool:
    """Whether the server closes connections without an answer, as it does for clients without TLS
    or without a certificate that it accepts."""
    lowered = (rpc_error.details() or "").lower()
    is_broken = any(phrase in lowered for phrase in _BROKEN)
    is_unavailable = rpc_error.code() is grpc.StatusCode.UNAVAILABLE
    return is_unavailable and is_broken and _NEVER_CONNECTED in lowered


def is_unserved(rpc_error: grpc.aio.AioRpcError) -> bool:
    """Whether a gRPC server without the method listens at the peer's address."""
    lowered = (rpc_error.details() or "").lower()
    return rpc_error.code() is grpc.StatusCode.UNIMPLEMENTED and "http2 header" not in lowered


def _unavailable(lowered: str) -> str:
    if _NO_TLS in lowered:
        return "it does not use TLS: connect without, or to its port with TLS"
    if _EXPIRED in lowered:
        return "its certificate has expired: it needs a new one"
    if _OTHER_NAME in lowered:
        return (
            "its certificate carries another name than this address: use the address of that name, "
            "or set the name that it carries (SEGUE_TLS_SERVER_NAME, [security] server_name)"
        )
    if _UNTRUSTED in lowered:
        return "its certificate is not of an authority that is trusted here (--tls-ca FILE)"
    if _NEVER_CONNECTED in lowered and any(phrase in lowered for phrase in _BROKEN):
        return CLOSED_AT_ONCE
    if any(phrase in lowered for phrase in _NO_HOST):
        return "unknown host name; check the address"
    if any(phrase in lowered for phrase in _BROKEN):
        return "the connection broke, its process may have ended"
    return ""
