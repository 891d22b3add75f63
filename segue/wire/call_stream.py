"""The answering end of one caller's calls over one stream: commands come in, events go out, one
message for all that waits. `calls` is the other end.

The stream is what a call lives on: when it ends, its calls are stopped, so a caller that dies, or
that lost sight of this process, leaves nothing here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from typing import Generic, Protocol, TypeVar

from segue.errors import InvalidRequest
from segue.wire.calls import Command, Event
from segue.wire.outbox import Outbox

Stop = Callable[[str], None]
"""Ends a call that has not had its last event; the reason is for the log."""


Commands = TypeVar("Commands", covariant=True)


class _Commands(Protocol[Commands]):
    """A message of a stream."""

    @property
    def commands(self) -> Iterable[Commands]: ...


class CallStream(Generic[Command, Event]):
    """Runs once. Raises InvalidRequest for commands that no caller of ours sends."""

    def __init__(
        self,
        begin: Callable[[Command, Callable[[Event], None]], Stop],
        is_last: Callable[[Event], bool],
        *,
        min_gap_s: float = 0.0,
    ) -> None:
        """`begin` begins the call of a command, and gets what sends an event of it; of a call that
        was stopped, nothing is sent. It tells nothing before it returns, and returns another `Stop`
        for each call. `begin` raises InvalidRequest for a command that has no business here.
        `min_gap_s` is the outbox's.
        """
        self._begin: Callable[[Command, Callable[[Event], None]], Stop] = begin
        self._is_last: Callable[[Event], bool] = is_last
        self._calls: dict[int, Stop] = {}
        self._events: Outbox[Event] = Outbox(min_gap_s=min_gap_s)

    async def run(
        self, messages: AsyncIterator[_Commands[Command]]
    ) -> AsyncGenerator[list[Event], None]:
        """The events of each message to send, until the messages with commands end."""
        listening = asyncio.ensure_future(self._listen(messages))
        listening.add_done_callback(lambda _: self._events.close())
        try:
            async for events in self._events.batches():
                yield events
            listening.result()
        finally:
            listening.cancel()
            for number in list(self._calls):
                self._stop(number, "its caller left")

    async def room(self) -> None:
        """Returns when not too much waits to be sent: at once, unless the caller does not read."""
        await self._events.room()

    async def _listen(self, messages: AsyncIterator[_Commands[Command]]) -> None:
        async for message in messages:
            for command in message.commands:
                if command.HasField("stop"):
                    self._stop(command.call, "stopped")
                else:
                    self._start(command)

    def _start(self, command: Command) -> None:
        number = command.call
        if number in self._calls:
            raise InvalidRequest(f"call {number} is running already: number each call anew")

        def tell(event: Event) -> None:
            if self._calls.get(number) is not stop:
                return
            event.call = number
            self._events.put(event)
            if self._is_last(event):
                del self._calls[number]

        stop: Stop = self._begin(command, tell)
        self._calls[number] = stop

    def _stop(self, number: int, reason: str) -> None:
        """Late, for a call that has just ended, it changes nothing."""
        if (stop := self._calls.pop(number, None)) is not None:
            stop(reason)
