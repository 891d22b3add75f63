"""Of the events that wait, those with a turn's first tokens are delivered first, and those of one
turn together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

from segue.api.turn import TokenDelta
from segue.v1 import session_pb2 as pb
from segue.wire.convert.events import events_to_wire
from segue.wire.streams.client import Calls
from segue.wire.streams.generate import _SharedCall
from segue.wire.streams.outbox import Outbox

MANY = 100


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


class Turns:
    """That read their events, each in a task of its own."""

    def __init__(self, stream: Stream, number: int) -> None:
        self.came: list[tuple[int, str]] = []
        self._calls: Calls[pb.GenerateManyCommand, pb.GenerateManyEvent] = Calls(
            stream.opened, "router", nullcontext, outbox=Outbox
        )
        calls = [self._calls.start(pb.GenerateManyCommand(), _SharedCall) for _ in range(number)]
        self._readers = [
            asyncio.ensure_future(self._read(index, call)) for index, call in enumerate(calls, 1)
        ]

    async def _read(self, index: int, call: _SharedCall) -> None:
        while events := await call.read():
            self.came.append((index, "".join(event.delta.text for event in events)))

    async def have(self, num_tokens: int) -> None:
        async with asyncio.timeout(5):
            while sum(len(text) for _, text in self.came) < num_tokens:
                await asyncio.sleep(0)
        # Until no reader is left to wake.
        for _ in range(MANY):
            await asyncio.sleep(0)

    async def close(self) -> None:
        for reader in self._readers:
            reader.cancel()
        await self._calls.close()


@contextlib.asynccontextmanager
async def turns_of(stream: Stream, number: int) -> AsyncIterator[Turns]:
    turns = Turns(stream, number)
    try:
        yield turns
    finally:
        await turns.close()


async def test_first_tokens_do_not_wait_for_those_of_other_turns() -> None:
    stream = Stream()
    async with turns_of(stream, 3) as turns:
        stream.put((1, "a"))
        await turns.have(1)
        stream.put((1, "b"), (1, "c"), (3, "d"), (2, "e"), (3, "f"))
        await turns.have(6)
        assert turns.came == [(1, "a"), (3, "df"), (2, "e"), (1, "bc")]


async def test_first_tokens_of_a_later_message_overtake_those_that_still_wait() -> None:
    stream = Stream()
    async with turns_of(stream, MANY + 1) as turns:
        stream.put(*((call, "a") for call in range(1, MANY + 1)))
        await turns.have(MANY)
        stream.put(*((call, "b") for call in range(1, MANY + 1)))
        stream.put((MANY + 1, "c"))
        await turns.have(2 * MANY + 1)
        later = turns.came[MANY:]
        assert later.index((MANY + 1, "c")) < MANY // 2


async def test_tokens_that_still_wait_get_the_next_ones_along() -> None:
    stream = Stream()
    async with turns_of(stream, MANY) as turns:
        stream.put(*((call, "a") for call in range(1, MANY + 1)))
        await turns.have(MANY)
        stream.put(*((call, "b") for call in range(1, MANY + 1)))
        stream.put(*((call, "c") for call in range(1, MANY + 1)))
        await turns.have(3 * MANY)
        late = [call for call, text in turns.came if text == "bc"]
        assert len(late) > MANY // 2
        for call in range(1, MANY + 1):
            assert "".join(text for index, text in turns.came if index == call) == "abc"
