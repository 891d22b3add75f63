"""What waits to be sent on a stream: all of it goes with the next message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """One event loop owns it; one task sends."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._something = asyncio.Event()
        self._is_closed = False

    def put(self, item: Item) -> None:
        self._items.append(item)
        self._something.set()

    def close(self) -> None:
        """Nothing more will be put."""
        self._is_closed = True
        self._something.set()

    def take(self) -> list[Item]:
        items, self._items = self._items, []
        return items

    async def batches(self) -> AsyncIterator[list[Item]]:
        """What waits, again and again until it is closed: as many items at once as there are."""
        while items := await self._wait():
            yield items

    async def _wait(self) -> list[Item]:
        """What waits, as soon as anything does; nothing once it is closed and empty."""
        while not self._items and not self._is_closed:
            self._something.clear()
            await self._something.wait()
        return self.take()
