"""The one table between Segue's errors and gRPC statuses, and the interceptor that applies it.

A server method raises a `SegueError`; the caller gets the status, the message, and the error's
name in the trailing metadata, from which `error_from_rpc` makes the same error again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from segue import errors
from segue.v1 import session_pb2
from segue.wire.grpc_words import error_in_words, is_refused, is_unserved

logger = logging.getLogger(__name__)

_MAX_CHARS = 500
_MAX_ASCII_CHARS = 4000

ERROR_KEY = "segue-error"
RETRY_AFTER_KEY = "segue-retry-after-s"

STATUS_OF: dict[type[errors.SegueError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidCheckpoint: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidConfig: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.NotResident: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnknownPrefix: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnknownHistory: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.StaleEpoch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LayoutMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.TransferFailed: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
}

_ERRORS: dict[str, type[errors.SegueError]] = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.SegueError)
}


def status_of(error: errors.SegueError) -> grpc.StatusCode:
    for kind in type(error).__mro__:
        if kind in STATUS_OF:
            return STATUS_OF[kind]
    return grpc.StatusCode.INTERNAL


def _trailers(error: errors.SegueError) -> tuple[tuple[str, str], ...]:
    trailers = [(ERROR_KEY, type(error).__name__)]
    if error.retry_after_s:
        trailers.append((RETRY_AFTER_KEY, f"{error.retry_after_s:.3f}"))
    return tuple(trailers)


def error_from_rpc(rpc_error: grpc.aio.AioRpcError, peer: str) -> errors.SegueError:
    """The error that the server raised, or the nearest kind where it never got to answer."""
    trailers = dict(rpc_error.trailing_metadata() or ())
    kind = _ERRORS.get(str(trailers.get(ERROR_KEY, "")))
    if kind is None:
        return error_in_words(rpc_error, peer)
    error: errors.SegueError = kind(rpc_error.details() or rpc_error.code().name)
    if RETRY_AFTER_KEY in trailers:
        error.retry_after_s = float(str(trailers[RETRY_AFTER_KEY]))
    return error


def error_to_wire(error: errors.SegueError) -> session_pb2.TurnError:
    """Of one turn, where a stream carries many."""
    return session_pb2.TurnError(
        kind=type(error).__name__, message=str(error), retry_after_s=error.retry_after_s
    )


def error_from_wire(error: session_pb2.TurnError) -> errors.SegueError:
    made: errors.SegueError = _ERRORS.get(error.kind, errors.SegueError)(error.message)
    if error.retry_after_s:
        made.retry_after_s = error.retry_after_s
    return made


def foreseen(error: Exception) -> errors.SegueError:
    """The error itself, or what is said in place of one that nobody foresaw, which is logged."""
    if isinstance(error, errors.SegueError):
        return error
    logger.error("unforeseen error", exc_info=error)
    return errors.SegueError(f"{type(error).__name__}: {error} (a bug; see the log)")


@contextlib.contextmanager
def rpc_errors(peer: str, *, if_refused: str = "", if_unserved: str = "") -> Iterator[None]:
    """Turns the gRPC errors of a call to `peer` into Segue's, and names that UTF-8 cannot express
    into one as well. `if_refused` is what to do when nothing listens at the peer's address, and
    `if_unserved` when a gRPC server of another kind does.
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
            raise errors.Unavailable(message) from rpc_error
        if if_unserved and is_unserved(rpc_error):
            raise errors.InvalidRequest(f"{peer}: {if_unserved}") from rpc_error
        raise error_from_rpc(rpc_error, peer) from rpc_error
    except asyncio.CancelledError:
        # A channel that is closed cancels its calls, which must not look as if the caller had been
        # cancelled.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise errors.Unavailable(f"{peer}: the connection was closed") from None


Method = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True)
class _Undecodable:
    """What came in place of a message."""

    reason: str


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Answers a raised error with its status; anything unforeseen is logged and is INTERNAL.

    Bytes that are not the message that was expected are an error of the caller's: gRPC by itself
    would log a traceback and answer UNKNOWN.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        kind = (
            f"{'stream' if handler.request_streaming else 'unary'}_"
            f"{'stream' if handler.response_streaming else 'unary'}"
        )
        inner: Method = _decoded(getattr(handler, kind), is_stream=handler.request_streaming)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            _streaming(inner) if handler.response_streaming else _unary(inner),
            _or_undecodable(handler.request_deserializer),
            handler.response_serializer,
        )


def _or_undecodable(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserialize is None:
        return None

    def decode(octets: bytes) -> Any:
        try:
            return deserialize(octets)
        except Exception as error:
            # Protobuf's own errors, and those of text that is not UTF-8.
            return _Undecodable(f"{len(octets)} bytes are not a message of this method: {error}")

    return decode


def _decoded(method: Method, *, is_stream: bool) -> Method:
    """The method, which gets nothing that could not be decoded."""

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
        # One coroutine writes, so that a client that hangs up ends the method here and now: a
        # generator that the framework drops would run its clean-up whenever it is collected.
        try:
            answering = method(request, context)
            if not hasattr(answering, "aclose"):
                # A method that writes for itself, as gRPC's health service does.
                await answering
                return
            async with contextlib.aclosing(answering) as messages:
                async for message in messages:
                    await context.write(message)
        except Exception as error:
            await _abort(context, error)

    return answer


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    """Tells the caller. One that has left meanwhile is nobody's error."""
    try:
        await _tell(context, error)
    except grpc.aio.InternalError:
        # gRPC could not send: the call is over. It would log that with a traceback.
        raise asyncio.CancelledError from None


async def _tell(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError | grpc.aio.InternalError):
        raise error
    if isinstance(error, errors.SegueError):
        await context.abort(status_of(error), _said(error), _trailers(error))
    if isinstance(error, asyncio.TimeoutError):
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the caller's deadline has passed")
    logger.exception("unforeseen error in a servicer method")
    said = f"{type(error).__name__}: {_said(error)} (a bug; see the server's log)"
    await context.abort(grpc.StatusCode.INTERNAL, said)


def _said(error: Exception) -> str:
    """Short enough to travel: it goes as metadata, of which gRPC takes 8 KiB, and a character may
    take twelve bytes of them. Messages quote what came, which may be long.
    """
    message = str(error)
    longest = _MAX_ASCII_CHARS if message.isascii() and message.isprintable() else _MAX_CHARS
    return message if len(message) <= longest else f"{message[:longest]} …"
