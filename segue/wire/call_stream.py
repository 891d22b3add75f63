"""The calls of one router on this worker, over one stream: commands come in, events go out, one
message for all that waits.

The stream is what a call lives on: when it ends, its calls are stopped, so a router that dies, or
that lost sight of this worker, leaves nothing here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from segue.errors import InvalidRequest
from segue.wire import worker_pb2 as pb
from segue.wire.outbox import Outbox

_LAST_EVENTS = frozenset({"end", "error", "prefilled"})

Tell = Callable[[pb.TurnEvent], None]
"""Sends an event of a call; of one that was stopped, nothing is sent."""
Stop = Callable[[str], None]
"""Ends a call that has not had its last event; the reason is for the log."""
Begin = Callable[[pb.TurnCommand, Tell], Stop]
"""Begins the call of a command; tells nothing before it returns, and another `Stop` for each call.
Raises InvalidRequest for a command that no router sends here."""


class CallStream:
    """Runs once. Raises InvalidRequest for commands that no router sends."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._calls: dict[int, Stop] = {}
        self._events: Outbox[pb.TurnEvent] = Outbox()

    async def run(
        self, commands: AsyncIterator[pb.TurnCommands]
    ) -> AsyncGenerator[pb.TurnEvents, None]:
        """Until the commands end."""
        listening = asyncio.ensure_future(self._listen(commands))
        listening.add_done_callback(lambda _: self._events.close())
        try:
            async for events in self._events.batches():
                yield pb.TurnEvents(events=events)
            listening.result()
        finally:
            listening.cancel()
            for number in list(self._calls):
                self._stop(number, "its router left")

    async def _listen(self, commands: AsyncIterator[pb.TurnCommands]) -> None:
        async for message in commands:
            for command in message.commands:
                if command.WhichOneof("command") == "stop":
                    self._stop(command.call, "stopped")
                else:
                    self._start(command)

    def _start(self, command: pb.TurnCommand) -> None:
        number = command.call
        if number in self._calls:
            raise InvalidRequest(f"call {number} is running already: number each call anew")

        def tell(event: pb.TurnEvent) -> None:
            if self._calls.get(number) is not stop:
                return
            event.call = number
            self._events.put(event)
            if event.WhichOneof("event") in _LAST_EVENTS:
                del self._calls[number]

        stop = self._calls[number] = self._begin(command, tell)

    def _stop(self, number: int, reason: str) -> None:
        """Late, for a call that has just ended, it changes nothing."""
        if (stop := self._calls.pop(number, None)) is not None:
            stop(reason)
