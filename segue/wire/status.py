"""The one table between Segue's errors and gRPC statuses, and the interceptor that applies it.

A server method raises a `SegueError`; the caller gets the status, the message, and the error's
name in the trailing metadata, from which `error_from_rpc` makes the same error again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc

from segue import errors

logger = logging.getLogger(__name__)

ERROR_KEY = "segue-error"
RETRY_AFTER_KEY = "segue-retry-after-s"

STATUS_OF: dict[type[errors.SegueError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidCheckpoint: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidConfig: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.NotResident: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnknownHistory: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.StaleEpoch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LayoutMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.TransferFailed: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
}

_ERROR_OF: dict[grpc.StatusCode, type[errors.SegueError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
}


def status_of(error: errors.SegueError) -> grpc.StatusCode:
    for kind in type(error).__mro__:
        if kind in STATUS_OF:
            return STATUS_OF[kind]
    return grpc.StatusCode.INTERNAL


def _trailers(error: errors.SegueError) -> tuple[tuple[str, str], ...]:
    trailers = [(ERROR_KEY, type(error).__name__)]
    if isinstance(error, errors.Overloaded):
        trailers.append((RETRY_AFTER_KEY, f"{error.retry_after_s:.3f}"))
    return tuple(trailers)


def error_from_rpc(rpc_error: grpc.aio.AioRpcError, peer: str) -> errors.SegueError:
    """The error that the server raised, or the nearest kind where it never got to answer."""
    trailers = dict(rpc_error.trailing_metadata() or ())
    message = rpc_error.details() or rpc_error.code().name
    kind = getattr(errors, str(trailers.get(ERROR_KEY, "")), None)
    if kind is None:
        kind = _ERROR_OF.get(rpc_error.code(), errors.SegueError)
        message = f"{peer}: {message}"
    error: errors.SegueError = kind(message)
    if isinstance(error, errors.Overloaded) and RETRY_AFTER_KEY in trailers:
        error.retry_after_s = float(str(trailers[RETRY_AFTER_KEY]))
    return error


@contextlib.contextmanager
def rpc_errors(peer: str, *, if_refused: str = "") -> Iterator[None]:
    """Turns the gRPC errors of a call to `peer` into Segue's.

    `if_refused` is what to do when nothing listens at the peer's address.
    """
    try:
        yield
    except grpc.aio.AioRpcError as rpc_error:
        if if_refused and _is_refused(rpc_error):
            message = f"{peer}: connection refused, nothing listens there: {if_refused}"
            raise errors.Unavailable(message) from rpc_error
        raise error_from_rpc(rpc_error, peer) from rpc_error


def _is_refused(rpc_error: grpc.aio.AioRpcError) -> bool:
    """gRPC says why it cannot connect in the details alone."""
    details = (rpc_error.details() or "").lower()
    return rpc_error.code() is grpc.StatusCode.UNAVAILABLE and "connection refused" in details


Method = Callable[[Any, Any], Any]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Answers a raised error with its status; anything unforeseen is logged and is INTERNAL."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/segue."):
            return handler
        if handler.response_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            inner: Method = handler.stream_stream or handler.unary_stream
            wrapped = _streaming(inner)
        else:
            make = grpc.unary_unary_rpc_method_handler
            wrapped = _unary(handler.unary_unary)
        return make(wrapped, handler.request_deserializer, handler.response_serializer)


def _unary(method: Method) -> Method:
    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await method(request, context)
        except Exception as error:
            await _abort(context, error)

    return answer


def _streaming(method: Method) -> Method:
    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        # One coroutine writes, so that a client that hangs up ends the method here and now: a
        # generator that the framework drops would run its clean-up whenever it is collected.
        try:
            async with contextlib.aclosing(method(request, context)) as messages:
                async for message in messages:
                    await context.write(message)
        except Exception as error:
            await _abort(context, error)

    return answer


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, errors.SegueError):
        await context.abort(status_of(error), str(error), _trailers(error))
    if isinstance(error, asyncio.TimeoutError):
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the caller's deadline has passed")
    logger.exception("unforeseen error in a servicer method")
    await context.abort(
        grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error} (a bug; see the server's log)"
    )
