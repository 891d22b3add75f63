"""Client side of many calls over one gRPC stream: it sends commands and receives events.

Each message carries everything that is queued, in both directions. `server.py` is the server side.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar, cast

import grpc

from segue.api.errors import SegueError, Unavailable
from segue.internal.v1 import worker_pb2
from segue.v1 import session_pb2
from segue.wire.streams.outbox import Order, Outbox
from segue.wire.streams.waking import Waking

Command = TypeVar("Command", worker_pb2.TurnCommand, session_pb2.GenerateManyCommand)
Event = TypeVar("Event", worker_pb2.TurnEvent, session_pb2.GenerateManyEvent)


class Call(ABC, Generic[Event]):
    """One call. Events are queued until they are read. One task reads; any task may `fail` it."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._error: SegueError | None = None
        self._arrived: asyncio.Future[None] | None = None
        self.is_over = False
        """The server has sent the call's last event, or has been sent a stop."""
        self.has_tokens = False
        """The server has sent tokens."""
        self.is_due = False
        """Its reader will be woken."""

    @abstractmethod
    def push(self, event: Event) -> bool:
        """Queues the event, and sets `is_over` with the last one. Returns whether the reader should
        be woken."""

    def wake(self) -> None:
        """Wakes the reader, if it waits."""
        self.is_due = False
        self._wake()

    def fail(self, error: SegueError) -> None:
        """Makes the reader raise `error`. The first error wins."""
        self._error = self._error or error
        self._wake()

    def close(self) -> None:
        """Stops the call on the server, unless it has ended. Idempotent."""
        if not self.is_over:
            self.is_over = True
            self._stop()

    async def _woken(self, at: float | None = None) -> None:
        """Returns when an event arrives, or at the event loop's time `at`."""
        loop = asyncio.get_running_loop()
        self._arrived = loop.create_future()
        timer = loop.call_at(at, self._wake) if at is not None else None
        try:
            await self._arrived
        finally:
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)


AnyCall = TypeVar("AnyCall", bound=Call[Any])


class Calls(Generic[Command, Event]):
    """Opens the stream for the first call, and again after it has failed."""

    def __init__(
        self,
        open_stream: Callable[[AsyncIterator[list[Command]]], grpc.aio.StreamStreamCall[Any, Any]],
        peer: str,
        errors: Callable[[], AbstractContextManager[None]],
        *,
        outbox: Callable[[], Outbox[Command]],
    ) -> None:
        """`open_stream` gets the commands of each message. `errors` turns a failure of the stream
        into a SegueError. `outbox` creates the queue of one stream."""
        self._open_stream: Callable[
            [AsyncIterator[list[Command]]], grpc.aio.StreamStreamCall[Any, Any]
        ] = open_stream
        self._peer = peer
        self._errors = errors
        self._numbers = itertools.count(1)
        self._calls: dict[int, Call[Event]] = {}
        self._outbox: Callable[[], Outbox[Command]] = outbox
        self._commands: Outbox[Command] = outbox()
        self._waking = Waking()
        self._running: asyncio.Task[None] | None = None
        self.is_broken = False
        """The last stream broke, and no message has arrived since."""

    def start(self, command: Command, make: Callable[[Callable[[], None]], AnyCall]) -> AnyCall:
        """Numbers and sends the command. `make` creates the call from its stop function."""
        number = command.call = next(self._numbers)
        kind = type(command)

        def stop() -> None:
            # After a stream has failed, the server has already stopped its calls.
            if self._calls.pop(number, None) is not None:
                self._commands.put(kind(call=number, stop=session_pb2.StopTurn()))

        call = make(stop)
        self._calls[number] = call
        if self._running is None:
            self._commands = self._outbox()
            self._running = asyncio.ensure_future(self._run(self._commands))
        self._commands.put(command)
        return call

    def fail(self, error: SegueError) -> None:
        """Fails all calls with `error` and closes the stream."""
        if self._running is not None:
            self._running.cancel()
            self._running = None
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.is_over = True
            call.fail(error)

    async def close(self) -> None:
        running = self._running
        self.fail(Unavailable(f"{self._peer}: the connection was closed"))
        if running is not None:
            await asyncio.wait({running})

    async def _run(self, commands: Outbox[Command]) -> None:
        """Reads until the stream ends, then fails the calls that were on it."""
        stream, order = self._open_stream(commands.batches()), Order()
        try:
            with self._errors():
                # gRPC's EOF is falsy; a message never is.
                while message := cast(Any, await stream.read()):
                    order.require_next(message.number)
                    self.is_broken = False
                    for event in message.events:
                        self._on_event(event)
                    self._waking.start()
            error: SegueError = Unavailable.unreachable(f"{self._peer} ended its stream of turns")
        except SegueError as broken:
            error = broken
        finally:
            commands.close()
            stream.cancel()
        self._running = None
        self.is_broken = True
        self.fail(error)

    def _on_event(self, event: Event) -> None:
        call = self._calls.get(event.call)
        if call is None:
            # The call was stopped while the event was in flight.
            return
        is_first = not call.has_tokens
        if call.push(event) and not call.is_due:
            call.is_due = True
            self._waking.add(call.wake, is_first=is_first)
        if call.is_over:
            del self._calls[event.call]
