"""gRPC channels of a virtual network: real stubs, servicers and messages, without sockets."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import grpc
from grpc_status import rpc_status

from segue.api.errors import SegueError
from segue.wire.error_details import error_to_wire
from tests.virtual.network import HERE, CallFault, Network, Pipe, Process

_OPEN, _CANCEL, _NO_MORE = object(), object(), object()


class _Context:
    """Of a call that carries no trace."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()


_CONTEXT = _Context()


class Channel:
    """A `grpc.aio.Channel` as far as stubs and Segue use one."""

    def __init__(self, network: Network, address: str) -> None:
        self._network = network
        self._address = address
        self._streams: set[_Stream] = set()

    def stream_stream(
        self, path: str, request_serializer: Any, response_deserializer: Any, **_: object
    ) -> Callable[..., _Stream]:
        def call(requests: AsyncIterator[Any]) -> _Stream:
            stream = _Stream(
                self._network, self._address, path, request_serializer, response_deserializer
            )
            stream.start(requests)
            self._streams = {one for one in self._streams if not one.is_over} | {stream}
            return stream

        return call

    def unary_unary(
        self, path: str, request_serializer: Any, response_deserializer: Any, **_: object
    ) -> Callable[..., Any]:
        async def call(request: Any, timeout: float | None = None, **_: object) -> Any:
            one = _Single(self._network, self._address, path, timeout)
            return response_deserializer(await one.answer(request_serializer(request)))

        return call

    async def close(self) -> None:
        for stream in self._streams:
            stream.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Call:
    """Both ends of a call. Subclasses say what arrives at each."""

    def __init__(self, network: Network, address: str, path: str) -> None:
        self.is_over = False
        self._network = network
        self._address = address
        self._path = path
        self._server: asyncio.Task[None] | None = None
        found = network.at(address)
        callee = found[0] if found else Process("unknown", address, network.draw)
        self.ends = frozenset((HERE.get(), callee))
        self._up = Pipe(network, self.ends, self._at_server)
        self._down = Pipe(network, self.ends, self._at_client)
        network.opened(self)
        if HERE.get().is_dead:
            asyncio.get_running_loop().call_soon(self.break_client, "its process is dead")

    def break_client(self, why: str) -> None:
        if not self.is_over:
            self._down.close()
            self._at_client(_failed(grpc.StatusCode.UNAVAILABLE, why))

    def break_server(self) -> None:
        self._up.close()
        if self._server is not None:
            self._server.cancel()

    def _handler(self) -> tuple[Process, Any] | None:
        found = self._network.at(self._address)
        if found is None or found[0] not in self.ends:
            return None
        return found[0], found[1][self._path]

    def _serve(self, work: Callable[[Any], Any]) -> None:
        """Starts the server's part, in its process."""
        found = self._handler()
        if found is None:
            self.break_client("connection refused")
            return
        process, handler = found
        context = contextvars.copy_context()
        context.run(HERE.set, process)

        async def serve() -> None:
            try:
                await work(handler)
            except Exception as error:
                self._down.send(self._error(error))

        self._server = asyncio.get_running_loop().create_task(serve(), context=context)
        self._server.add_done_callback(lambda _: self._ended())

    def _ended(self) -> None:
        if self.is_over and (self._server is None or self._server.done()):
            self._network.closed(self)

    def _error(self, error: Exception) -> grpc.aio.AioRpcError:
        if not isinstance(error, SegueError):
            self._network.bugs.append(f"{self._path}: {type(error).__name__}: {error}")
            return _failed(grpc.StatusCode.INTERNAL, str(error))
        status = rpc_status.to_status(error_to_wire(error))
        metadata = grpc.aio.Metadata(*status.trailing_metadata)
        return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), metadata, status.details)

    def _at_server(self, item: Any) -> None:
        raise NotImplementedError

    def _at_client(self, item: Any) -> None:
        raise NotImplementedError


class _Stream(_Call):
    def __init__(
        self, network: Network, address: str, path: str, serialize: Any, deserialize: Any
    ) -> None:
        super().__init__(network, address, path)
        self._serialize = serialize
        self._deserialize = deserialize
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self._sending: asyncio.Task[None] | None = None

    def start(self, requests: AsyncIterator[Any]) -> None:
        self._up.send(_OPEN)
        self._sending = asyncio.ensure_future(self._send(requests))

    async def read(self) -> Any:
        item = await self._answers.get()
        if item is _NO_MORE:
            return grpc.aio.EOF
        if isinstance(item, BaseException):
            raise item
        return self._deserialize(item)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while message := await self.read():
            yield message

    def cancel(self) -> None:
        if not self.is_over:
            self._end(asyncio.CancelledError())
            self._up.send(_CANCEL)

    async def _send(self, requests: AsyncIterator[Any]) -> None:
        async for request in requests:
            self._up.send(self._serialize(request))
        self._up.send(_NO_MORE)

    def _end(self, end: Any) -> None:
        self.is_over = True
        self._down.close()
        self._answers.put_nowait(end)
        if self._sending is not None:
            self._sending.cancel()
        self._ended()

    def _at_client(self, item: Any) -> None:
        if self.is_over:
            return
        if item is _NO_MORE or isinstance(item, BaseException):
            self._end(item)
        else:
            self._answers.put_nowait(item)

    def _at_server(self, item: Any) -> None:
        if item is _OPEN:
            self._serve(self._answer)
        elif item is _CANCEL:
            self.break_server()
        else:
            self._requests.put_nowait(item)

    async def _answer(self, handler: Any) -> None:
        async def requests() -> AsyncIterator[Any]:
            while (item := await self._requests.get()) is not _NO_MORE:
                yield handler.request_deserializer(item)

        answering = handler.stream_stream(requests(), _CONTEXT)
        async with contextlib.aclosing(answering) as answers:
            async for answer in answers:
                self._down.send(handler.response_serializer(answer))
        self._down.send(_NO_MORE)


class _Single(_Call):
    """A call of a unary method."""

    def __init__(self, network: Network, address: str, path: str, timeout_s: float | None) -> None:
        super().__init__(network, address, path)
        self._timeout_s = timeout_s
        self._fault = network.take_fault(path.rpartition("/")[2])
        self._arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def answer(self, request: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        if self._fault is CallFault.LATE:
            late_s = (self._timeout_s or 0.0) + self._network.draw.uniform(0.0, 3.0)
            loop.call_later(late_s, self._up.send, request)
        elif self._fault is not CallFault.LOST:
            self._up.send(request)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._arrived
        except TimeoutError:
            raise _failed(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
        finally:
            self.is_over = True
            self._ended()
            if self._fault not in (CallFault.LATE, CallFault.TWICE):
                self._up.send(_CANCEL)

    def _at_client(self, item: Any) -> None:
        if self._arrived.done() or self._fault is CallFault.NO_ANSWER:
            return
        if isinstance(item, BaseException):
            self._arrived.set_exception(item)
        else:
            self._arrived.set_result(item)

    def _at_server(self, item: Any) -> None:
        if item is _CANCEL:
            self.break_server()
            return

        async def work(handler: Any) -> None:
            request = handler.request_deserializer(item)
            reply = await handler.unary_unary(request, _CONTEXT)
            self._down.send(handler.response_serializer(reply))
            if self._fault is CallFault.TWICE:
                await asyncio.sleep(self._network.draw.uniform(0.0, 1.0))
                with contextlib.suppress(SegueError):
                    await handler.unary_unary(request, _CONTEXT)

        self._serve(work)


def _failed(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
