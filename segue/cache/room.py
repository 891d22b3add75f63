"""Waiting for pages and slots: first come, first served, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable
from typing import TypeVar

from segue.errors import Overloaded

Taken = TypeVar("Taken")


async def _nothing() -> None:
    pass


class WaitingRoom:
    """Turns that wait for memory, in order of arrival. One event loop owns it.

    A turn whose `take` raises Overloaded waits; those behind it wait too, even if they would fit,
    so that a large prompt is not starved by small ones.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._waiters: collections.deque[asyncio.Future[None]] = collections.deque()

    def __len__(self) -> int:
        return len(self._waiters)

    async def take(
        self, attempt: Callable[[], Taken], prepare: Callable[[], Awaitable[None]] = _nothing
    ) -> Taken:
        """What `attempt` returns, as soon as it is this caller's turn and it does not overload.

        `prepare` is awaited before each attempt, which then follows at once: nothing else of this
        event loop comes in between. Raises Overloaded at once when too many wait already.
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
                f"{len(self._waiters)} turns wait for memory here already (at most "
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
        """Call after memory was given back: the first in line tries again."""
        if self._waiters and not self._waiters[0].done():
            self._waiters[0].set_result(None)
