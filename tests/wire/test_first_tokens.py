"""Of the events in one message, those with a turn's first tokens are delivered first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

from segue.api.turn import TokenDelta
from segue.v1 import session_pb2 as pb
from segue.wire.convert.events import events_to_wire
from segue.wire.streams.client import Calls
from segue.wire.streams.generate import _Answering
from segue.wire.streams.outbox import Outbox


class Stream:
    """The router's side: each message is what a test puts here."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[pb.GenerateManyEvents] = asyncio.Queue()

    def opened(self, commands: AsyncIterator[Any]) -> Any:
        return self

    async def read(self) -> pb.GenerateManyEvents:
        return await self.messages.get()

    def cancel(self) -> None:
        pass

    def put(self, *texts: tuple[int, str]) -> None:
        events = [
            pb.GenerateManyEvent(
                call=call, event=events_to_wire([TokenDelta(token_ids=(1,), text=text)])
            )
            for call, text in texts
        ]
        self.messages.put_nowait(pb.GenerateManyEvents(events=events))


async def test_first_tokens_do_not_wait_for_those_of_other_turns() -> None:
    stream, came = Stream(), []

    class Noting(_Answering):
        def push(self, event: pb.GenerateManyEvent) -> None:
            came.append((event.call, event.event.delta.text))
            super().push(event)

    calls: Calls[pb.GenerateManyCommand, pb.GenerateManyEvent] = Calls(
        stream.opened, "router", nullcontext, outbox=Outbox
    )
    for _ in range(3):
        calls.start(pb.GenerateManyCommand(), Noting)
    stream.put((1, "a"))
    stream.put((1, "b"), (1, "c"), (3, "d"), (2, "e"), (3, "f"))
    async with asyncio.timeout(5):
        while len(came) < 6:
            await asyncio.sleep(0)
    await calls.close()

    assert came == [(1, "a"), (3, "d"), (2, "e"), (3, "f"), (1, "b"), (1, "c")]
