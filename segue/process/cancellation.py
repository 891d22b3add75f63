"""Waits, work that others may end, and clean-up that a cancelled task must not leave half done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

from segue.api.errors import SegueError

Result = TypeVar("Result")


async def uninterrupted(work: Awaitable[Result]) -> Result:
    """Returns the result of `work`. Raises a cancellation only after `work` is done."""
    future = asyncio.ensure_future(work)
    cancellation: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            cancellation = error
    result = future.result()
    if cancellation is not None:
        raise cancellation
    return result


async def wait_at_most(event: asyncio.Event, timeout_s: float) -> None:
    """Returns when the event is set or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


class Interruptible:
    """Work that others may end with an error. Runs once.

    Only `interrupt` makes `run` raise that error: a caller that is cancelled itself gets its own
    CancelledError.
    """

    def __init__(self) -> None:
        self.over = asyncio.Event()
        """Set once `run` has returned or raised."""
        self._task: asyncio.Task[object] | None = None
        self._error: SegueError | None = None

    async def run(self, work: Awaitable[Result]) -> Result:
        """Returns the result of `work`. Raises an interruption once `work` has cleaned up."""
        self._task = task = asyncio.current_task()
        assert task is not None, "coroutines run in tasks"
        try:
            return await work
        except asyncio.CancelledError:
            # Each cancellation counts: if any is left over, it is the caller's own.
            if self._error is None or task.uncancel() > 0:
                raise
            raise self._error from None
        finally:
            self._task = None
            self.over.set()

    def interrupt(self, error: SegueError) -> None:
        """Makes `run` raise `error`, unless it is over. The first interruption wins."""
        if self._task is not None and self._error is None:
            self._error = error
            self._task.cancel()
