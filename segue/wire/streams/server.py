"""Server side of many calls over one gRPC stream: it receives commands and sends events. Each
message carries everything that is queued. `client.py` is the client side.

When a stream ends, its calls are stopped, so that no call outlives a client that dies or loses its
connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, Generic, Protocol, TypeVar

from segue.api.errors import InvalidRequest, Unavailable
from segue.v1 import session_pb2 as pb
from segue.wire.error_details import error_to_wire
from segue.wire.status import foreseen
from segue.wire.streams.client import Command, Event
from segue.wire.streams.outbox import Order, Outbox

logger = logging.getLogger(__name__)

Commands = TypeVar("Commands", covariant=True)


class _Commands(Protocol[Commands]):
    """A message of a stream."""

    @property
    def number(self) -> int: ...

    @property
    def commands(self) -> Iterable[Commands]: ...


class CallStream(Generic[Command, Event]):
    """Runs once. Raises InvalidRequest for a command that violates the protocol. Ends the stream if
    a message is missing or repeated, as if the connection had broken.
    """

    def __init__(
        self,
        make_call: Callable[[Command, Callable[[Event], None]], Coroutine[Any, Any, None]],
        is_last: Callable[[Event], bool],
        failed: Callable[[pb.Status], Event],
        *,
        min_gap_s: float = 0.0,
    ) -> None:
        """`make_call` returns the coroutine that carries out a command, which runs in a task of its
        own. Its second argument sends an event of the call, or drops it once the call is stopped.
        `make_call` raises InvalidRequest for an unexpected command. A stopped call is cancelled. A
        call that raises ends with the event that `failed` creates from the error. `min_gap_s`: see
        `Outbox`.
        """
        self._make_call: Callable[[Command, Callable[[Event], None]], Coroutine[Any, Any, None]] = (
            make_call
        )
        self._is_last: Callable[[Event], bool] = is_last
        self._failed: Callable[[pb.Status], Event] = failed
        self._calls: dict[int, asyncio.Task[None]] = {}
        """The calls that have not sent their last event."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._events: Outbox[Event] = Outbox(min_gap_s=min_gap_s)

    async def run(
        self, messages: AsyncIterator[_Commands[Command]]
    ) -> AsyncGenerator[list[Event], None]:
        """Yields the events of each message to send, until the command messages end."""
        listening = asyncio.ensure_future(self._listen(messages))
        listening.add_done_callback(lambda _: self._events.close())
        try:
            async for events in self._events.batches():
                yield events
            listening.result()
        finally:
            listening.cancel()
            for number in list(self._calls):
                self._stop(number, "its client left")

    async def room(self) -> None:
        """Waits while too much is queued, which happens only if the client does not read."""
        await self._events.room()

    async def _listen(self, messages: AsyncIterator[_Commands[Command]]) -> None:
        order = Order()
        async for message in messages:
            try:
                order.require_next(message.number)
            except Unavailable as error:
                logger.warning("ending a stream", extra={"error": str(error)})
                return
            for command in message.commands:
                if command.HasField("stop"):
                    self._stop(command.call, "stopped")
                else:
                    self._start(command)

    def _start(self, command: Command) -> None:
        number = command.call
        if number in self._calls:
            raise InvalidRequest(f"call {number} is already running: give each call a new number")

        def emit(event: Event) -> None:
            if self._calls.get(number) is not task:
                return
            event.call = number
            self._events.put(event)
            if self._is_last(event):
                del self._calls[number]

        call = self._make_call(command, emit)
        task: asyncio.Task[None] = asyncio.ensure_future(self._run(call, emit))
        self._calls[number] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A call that is stopped before its first step was never awaited.
        task.add_done_callback(lambda _: call.close())

    async def _run(self, call: Coroutine[Any, Any, None], emit: Callable[[Event], None]) -> None:
        try:
            await call
        except Exception as error:
            emit(self._failed(error_to_wire(foreseen(error))))

    def _stop(self, number: int, reason: str) -> None:
        """Does nothing for a call that has already ended. `reason` is for the log."""
        if (task := self._calls.pop(number, None)) is not None:
            task.cancel(reason)
