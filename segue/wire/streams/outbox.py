"""The messages of a stream: the send queue, whose items share messages, and the messages' numbers.

The reader uses the numbers to detect a message that is missing or repeated. TCP and HTTP/2 lose and
repeat nothing, but neither detects a broken proxy: repeated frames of a plaintext stream are valid,
and would be repeated tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from google.protobuf.message import Message

from segue.api.errors import Unavailable

# Far below the largest message, because a single prompt may be long.
_MAX_BYTES = 4 << 20
# More items than this queue up only if the other side does not read.
_MANY_ITEMS = 1_000

Item = TypeVar("Item", bound=Message)
Batch = TypeVar("Batch")


class Outbox(Generic[Item]):
    """One event loop owns it; one task sends."""

    def __init__(self, *, min_gap_s: float = 0.0, max_bytes: int = _MAX_BYTES) -> None:
        """`min_gap_s`: shortest time between two batches; an item after a longer pause is sent at
        once. `max_bytes`: largest batch, unless a single item exceeds it."""
        self._min_gap_s = min_gap_s
        self._max_bytes = max_bytes
        self._not_before = 0.0
        self._items: list[Item] = []
        self._something = asyncio.Event()
        self._room = asyncio.Event()
        self._is_closed = False

    def put(self, item: Item) -> None:
        self._items.append(item)
        self._something.set()

    async def room(self) -> None:
        """Waits until few items are queued."""
        while len(self._items) > _MANY_ITEMS and not self._is_closed:
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        """No more items will be put."""
        self._is_closed = True
        self._something.set()
        self._room.set()

    def take(self) -> list[Item]:
        """The next batch, in order; empty if nothing is queued."""
        num = self._num_together()
        items, self._items = self._items[:num], self._items[num:]
        self._room.set()
        return items

    async def batches(self) -> AsyncIterator[list[Item]]:
        """Yields batches of all queued items until the outbox is closed and empty."""
        while items := await self._wait():
            yield items

    def _num_together(self) -> int:
        num_bytes = 0
        for num, item in enumerate(self._items):
            num_bytes += item.ByteSize()
            if num and num_bytes > self._max_bytes:
                return num
        return len(self._items)

    async def _wait(self) -> list[Item]:
        """The next batch, once anything is queued; empty once closed and empty."""
        while not self._items and not self._is_closed:
            self._something.clear()
            await self._something.wait()
        loop = asyncio.get_running_loop()
        if (wait_s := self._not_before - loop.time()) > 0:
            await asyncio.sleep(wait_s)
        self._not_before = loop.time() + self._min_gap_s
        return self.take()


async def numbered(batches: AsyncIterator[Batch]) -> AsyncIterator[tuple[int, Batch]]:
    """The batches with the numbers of their messages, from 1."""
    number = 0
    async for batch in batches:
        number += 1
        yield number, batch


class Order:
    """Checks the numbers of one stream's messages."""

    def __init__(self) -> None:
        self._expected = 1

    def require_next(self, number: int) -> None:
        """Raises Unavailable. 0 comes from a peer that does not number its messages."""
        if number not in (0, self._expected):
            raise Unavailable.unreachable(
                f"expected message {self._expected} of a stream, got message {number}: something "
                "between the two processes loses or repeats bytes"
            )
        self._expected += 1
