"""Segue's errors over gRPC: the interceptor that sends them, and functions that raise them again.

A server method raises a `SegueError`. The caller gets a `google.rpc.Status` in the trailing
metadata `grpc-status-details-bin`, from which `error_from_rpc` restores the error.
`error_details` defines its contents.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from segue.api import errors
from segue.wire.error_details import error_to_wire, named_error
from segue.wire.grpc_words import error_in_words, is_closed_at_once, is_refused, is_unserved

logger = logging.getLogger(__name__)

# The message is sent twice: as itself, and base64-encoded in the details.
_MAX_CHARS = 400
_MAX_ASCII_CHARS = 3000
UNREAD_S = 30.0
"""A stream ends if its client reads nothing for this long while its buffers are full: otherwise the
call would hold its resources until its deadline."""


def error_from_rpc(rpc_error: grpc.aio.AioRpcError, peer: str) -> errors.SegueError:
    """The error that the server raised, or the nearest kind if its method did not answer."""
    try:
        status = rpc_status.from_call(rpc_error)
    except (ValueError, DecodeError):
        # Another server's details, or changed by a proxy: use gRPC's own status.
        status = None
    error = None if status is None else named_error(status.details, status.message)
    return error_in_words(rpc_error, peer) if error is None else error


def foreseen(error: Exception) -> errors.SegueError:
    """The error itself if it is Segue's. Logs any other, and returns a SegueError in its place."""
    if isinstance(error, errors.SegueError):
        return error
    logger.error("unexpected error", exc_info=error)
    return errors.SegueError(f"{type(error).__name__}: {error} (a bug; see the log)")


@contextlib.contextmanager
def rpc_errors(
    peer: str, *, if_refused: str = "", if_unserved: str = "", if_closed: str = ""
) -> Iterator[None]:
    """Turns the gRPC errors of a call to `peer`, and errors of encoding text as UTF-8, into
    Segue's. `if_refused` advises what to do if nothing listens at the peer's address,
    `if_unserved` if another kind of gRPC server does, and `if_closed` if it closes each connection.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        raise errors.InvalidRequest(
            f"expected valid Unicode, got half of a surrogate pair at character {error.start} of "
            f"{error.object!r:.80}: send whole characters"
        ) from None
    except grpc.aio.AioRpcError as rpc_error:
        if if_refused and is_refused(rpc_error):
            message = f"{peer}: connection refused, nothing listens there: {if_refused}"
            raise errors.Unavailable.unreachable(message, was_sent=False) from rpc_error
        if if_closed and is_closed_at_once(rpc_error):
            message = f"{peer}: {if_closed}"
            raise errors.Unavailable.unreachable(message, was_sent=False) from rpc_error
        if if_unserved and is_unserved(rpc_error):
            raise errors.InvalidRequest(f"{peer}: {if_unserved}") from rpc_error
        raise error_from_rpc(rpc_error, peer) from rpc_error
    except asyncio.CancelledError:
        # Closing a channel cancels its calls. The caller must not look cancelled.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise errors.Unavailable(f"{peer}: the connection was closed") from None


Method = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True)
class _Undecodable:
    """Stands for bytes that could not be decoded as a message."""

    reason: str


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Answers a raised error with its status. Logs any unexpected error and answers INTERNAL.

    Bytes that are not the expected message are the caller's error: gRPC itself would log a
    traceback and answer UNKNOWN.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        kind, make = kind_of(handler)
        inner: Method = _decoded(getattr(handler, kind), is_stream=handler.request_streaming)
        return make(
            _streaming(inner) if handler.response_streaming else _unary(inner),
            _or_undecodable(handler.request_deserializer),
            handler.response_serializer,
        )


def kind_of(handler: grpc.RpcMethodHandler[Any, Any]) -> tuple[str, Callable[..., Any]]:
    """The kind of a method, such as unary_stream, and gRPC's function that makes its handler."""
    kind = (
        f"{'stream' if handler.request_streaming else 'unary'}_"
        f"{'stream' if handler.response_streaming else 'unary'}"
    )
    return kind, getattr(grpc, f"{kind}_rpc_method_handler")


def _or_undecodable(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserialize is None:
        return None

    def decode(octets: bytes) -> Any:
        try:
            return deserialize(octets)
        except Exception as error:
            # Protobuf's own errors, and those for text that is not UTF-8.
            return _Undecodable(f"{len(octets)} bytes are not a message of this method: {error}")

    return decode


def _decoded(method: Method, *, is_stream: bool) -> Method:
    """The method, guarded: raises InvalidRequest for a request that could not be decoded."""

    def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return method(_each_decoded(request) if is_stream else _known(request), context)

    return call


async def _each_decoded(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _known(request)


def _known(request: Any) -> Any:
    if isinstance(request, _Undecodable):
        raise errors.InvalidRequest(request.reason)
    return request


def _unary(method: Method) -> Method:
    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await method(request, context)
        except Exception as error:
            await _abort(context, error)

    return answer


def _streaming(method: Method) -> Method:
    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        # This coroutine does the writing, so that the method ends as soon as the client hangs up. A
        # generator dropped by the framework would run its clean-up only when it is collected.
        try:
            answering = method(request, context)
            if not hasattr(answering, "aclose"):
                # The method writes itself, as gRPC's health service does.
                await answering
                return
            async with contextlib.aclosing(answering) as messages:
                async for message in messages:
                    async with asyncio.timeout(UNREAD_S):
                        await context.write(message)
        except Exception as error:
            await _abort(context, error)

    return answer


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    """Sends the error to the caller. If the caller has left meanwhile, that is not an error."""
    try:
        await _set_status(context, error)
    except grpc.aio.InternalError:
        # gRPC could not send: the call is over. gRPC itself would log a traceback.
        raise asyncio.CancelledError from None


async def _set_status(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError | grpc.aio.InternalError):
        raise error
    if isinstance(error, errors.SegueError):
        status = rpc_status.to_status(error_to_wire(error, _shortened(error)))
        await context.abort(status.code, status.details, status.trailing_metadata)
    if isinstance(error, asyncio.TimeoutError):
        late = "the caller's deadline has passed, or it does not read its stream"
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, late)
    if isinstance(error, NotImplementedError):
        # The base class of a service raises it, such as gRPC's health service for `List`.
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server does not have that method")
    logger.exception("unexpected error in a servicer method")
    details = f"{type(error).__name__}: {_shortened(error)} (a bug; see the server's log)"
    await context.abort(grpc.StatusCode.INTERNAL, details)


def _shortened(error: Exception) -> str:
    """The error's message, cut short: it is sent as metadata, which gRPC limits to 8 KiB, and a
    character may take twelve bytes of that. Messages quote input, which may be long.
    """
    message = str(error)
    longest = _MAX_ASCII_CHARS if message.isascii() and message.isprintable() else _MAX_CHARS
    return message if len(message) <= longest else f"{message[:longest]} …"
