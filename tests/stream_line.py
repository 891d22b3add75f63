"""The router's end of a worker's stream of calls, without gRPC in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from segue.internal.v1 import worker_pb2 as pb


class StreamLine:
    """Set `stream` after creation: it answers `messages`."""

    stream: Any

    def __init__(self) -> None:
        self._commands: asyncio.Queue[pb.TurnCommands | None] = asyncio.Queue()

    async def messages(self) -> AsyncIterator[pb.TurnCommands]:
        while (message := await self._commands.get()) is not None:
            yield message

    def send(self, *commands: pb.TurnCommand) -> None:
        self._commands.put_nowait(pb.TurnCommands(commands=commands))

    def hang_up(self) -> None:
        self._commands.put_nowait(None)

    async def events(self) -> list[pb.TurnEvent]:
        return list((await asyncio.wait_for(anext(self.stream), timeout=5)).events)
