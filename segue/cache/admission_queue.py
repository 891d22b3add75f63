"""A FIFO queue of turns that wait for pages and slots."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable
from typing import TypeVar

from segue.api.errors import Overloaded

Taken = TypeVar("Taken")


async def _nothing() -> None:
    pass


class AdmissionQueue:
    """Turns that wait for memory, in order of arrival. One event loop owns it.

    A turn whose attempt raises Overloaded waits. Those behind it wait too, even if they would fit,
    so that small prompts do not starve a large one.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._waiters: collections.deque[asyncio.Future[None]] = collections.deque()

    def __len__(self) -> int:
        return len(self._waiters)

    async def take(
        self, attempt: Callable[[], Taken], prepare: Callable[[], Awaitable[None]] = _nothing
    ) -> Taken:
        """Returns what `attempt` returns, once the caller is first in line and `attempt` does not
        raise Overloaded.

        Awaits `prepare` before each attempt; the event loop runs nothing else between the two.
        Raises Overloaded at once if too many turns wait already.
        """
        if not self._waiters:
            await prepare()
        if not self._waiters:
            try:
                return attempt()
            except Overloaded:
                pass
        if len(self._waiters) >= self._max_waiting:
            raise Overloaded(
                f"{len(self._waiters)} turns already wait for memory here (at most "
                f"{self._max_waiting}); try again later, or add a worker"
            )
        return await self._wait(attempt, prepare)

    async def _wait(
        self, attempt: Callable[[], Taken], prepare: Callable[[], Awaitable[None]]
    ) -> Taken:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            while True:
                await waiter
                await prepare()
                try:
                    return attempt()
                except Overloaded:
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters[0] = waiter
        finally:
            self._waiters.remove(waiter)
            self.wake()

    def wake(self) -> None:
        """Call after memory was given back: lets the first in line try again."""
        if self._waiters and not self._waiters[0].done():
            self._waiters[0].set_result(None)
