"""Sends a client's turns: over one shared stream, or as a call of its own for a long prompt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import grpc

from segue.api.api_key import metadata_with
from segue.api.errors import DeadlineExceeded
from segue.process.tracing.context import outgoing_metadata
from segue.v1 import session_pb2 as pb
from segue.wire.convert.trace import outgoing_to_wire
from segue.wire.error_details import error_from_wire
from segue.wire.streams.client import Call, Calls
from segue.wire.streams.outbox import Outbox, numbered

if TYPE_CHECKING:
    # For type annotations only: the generated module does not have this name at run time.
    from segue.v1.session_pb2_grpc import SessionsAsyncStub

# A longer request gets its own call, so that others neither queue behind it nor fail if it is
# refused.
_ALONE_BYTES = 256 << 10
# Most bytes of requests in one message. Every router accepts more (router/__main__.py).
_TOGETHER_BYTES = 2 * _ALONE_BYTES
# Shortest time between two messages; turns that start within it share a message.
_MIN_GAP_S = 0.002


class TurnStreams:
    """The turns of one client on one router."""

    def __init__(
        self,
        stub: SessionsAsyncStub,
        peer: str,
        errors: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """`errors` turns a failure of the stream into a SegueError."""
        self._stub = stub
        self._calls: Calls[pb.GenerateManyCommand, pb.GenerateManyEvent] = Calls(
            self._open_stream, peer, errors, outbox=_outbox
        )

    def start(
        self, request: pb.GenerateRequest, timeout_s: float | None, api_key: str = ""
    ) -> TurnStream:
        """Sends the turn. Its end, or `close`, ends the call."""
        if request.ByteSize() > _ALONE_BYTES:
            metadata = (*metadata_with(api_key), *outgoing_metadata())
            return _OwnCall(self._stub.Generate(request, timeout=timeout_s, metadata=metadata))
        start = pb.StartGenerate(
            request=request, timeout_s=timeout_s, api_key=api_key, trace=outgoing_to_wire()
        )
        call = self._calls.start(pb.GenerateManyCommand(start=start), _SharedCall)
        if timeout_s is not None:
            call.limit(timeout_s)
        return call

    @property
    def is_broken(self) -> bool:
        """The shared stream broke, and the router has not answered since."""
        return self._calls.is_broken

    async def close(self) -> None:
        """Running turns fail with Unavailable."""
        await self._calls.close()

    def _open_stream(
        self, batches: AsyncIterator[list[pb.GenerateManyCommand]]
    ) -> grpc.aio.StreamStreamCall[pb.GenerateManyCommands, pb.GenerateManyEvents]:
        async def messages() -> AsyncIterator[pb.GenerateManyCommands]:
            async for number, commands in numbered(batches):
                yield pb.GenerateManyCommands(commands=commands, number=number)

        return self._stub.GenerateMany(messages())


def _outbox() -> Outbox[pb.GenerateManyCommand]:
    return Outbox(min_gap_s=_MIN_GAP_S, max_bytes=_TOGETHER_BYTES)


class TurnStream(Protocol):
    """One turn, as its client reads it."""

    async def read(self) -> Sequence[pb.GenerateEvent]:
        """Returns the next pending events, or none after the last. Raises the error that ended the
        turn, after the events before it: SegueErrors and RpcErrors."""

    def close(self) -> None:
        """Cancels the turn, unless it has ended. Idempotent."""


class _OwnCall:
    """A turn in a call of its own."""

    def __init__(
        self, call: grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateEvent]
    ) -> None:
        self._call = call

    async def read(self) -> Sequence[pb.GenerateEvent]:
        event = await self._call.read()
        # Otherwise it is gRPC's EOF.
        return (event,) if isinstance(event, pb.GenerateEvent) else ()

    def close(self) -> None:
        self._call.cancel()


class _SharedCall(Call[pb.GenerateManyEvent]):
    """A turn on the shared stream."""

    def __init__(self, stop: Callable[[], None]) -> None:
        super().__init__(stop)
        self._events: list[pb.GenerateEvent] = []
        self._timer: asyncio.TimerHandle | None = None

    def limit(self, timeout_s: float) -> None:
        # The router enforces the limit too, unless it has stopped responding.
        late = DeadlineExceeded(f"no complete answer within {timeout_s:g} s")
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self.fail, late)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().close()

    def push(self, event: pb.GenerateManyEvent) -> bool:
        if event.HasField("error"):
            self.is_over = True
            self._error = self._error or error_from_wire(event.error)
        else:
            some = event.event
            self.is_over = some.HasField("end")
            self.has_tokens = self.has_tokens or some.HasField("delta")
            self._events.append(some)
        return True

    async def read(self) -> Sequence[pb.GenerateEvent]:
        while not self._events:
            if self._error is not None:
                raise self._error
            if self.is_over:
                break
            await self._woken()
        events, self._events = self._events, []
        return events
