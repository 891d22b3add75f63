"""Segue's errors over gRPC: the interceptor that sends them, and what raises them again.

A server method raises a `SegueError`. The caller gets a `google.rpc.Status` in the trailing
metadata `grpc-status-details-bin`, from which `error_from_rpc` makes the same error again;
`error_details` says what is in it.
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

from segue import errors
from segue.wire.error_details import error_to_wire, named_error
from segue.wire.grpc_words import error_in_words, is_refused, is_unserved

logger = logging.getLogger(__name__)

# The message travels twice, as itself and in the details, in base64 there.
_MAX_CHARS = 400
_MAX_ASCII_CHARS = 3000


def error_from_rpc(rpc_error: grpc.aio.AioRpcError, peer: str) -> errors.SegueError:
    """The error that the server raised, or the nearest kind where it never got to answer."""
    try:
        status = rpc_status.from_call(rpc_error)
    except (ValueError, DecodeError):
        # Of another server, or changed on the way: gRPC's own status counts.
        status = None
    error = None if status is None else named_error(status.details, status.message)
    return error_in_words(rpc_error, peer) if error is None else error


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
        status = rpc_status.to_status(error_to_wire(error, _said(error)))
        await context.abort(status.code, status.details, status.trailing_metadata)
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
