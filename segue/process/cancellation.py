"""Work that others may end, and clean-up that a cancelled task must not leave half done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from segue.api.errors import SegueError

Result = TypeVar("Result")


async def uninterrupted(work: Awaitable[Result]) -> Result:
    """Returns what `work` returns. A cancellation meanwhile is raised after `work` is done."""
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
        """What `work` returns. After an interruption it raises once `work` has cleaned up."""
        self._task = task = asyncio.current_task()
        assert task is not None, "coroutines run in tasks"
        try:
            return await work
        except asyncio.CancelledError:
            # Each cancellation counts: the caller's own are left over if there are any.
            if self._error is None or task.uncancel() > 0:
                raise
            raise self._error from None
        finally:
            self._task = None
            self.over.set()

    def interrupt(self, error: SegueError) -> None:
        """Makes `run` raise `error`, unless it is over. The first interruption counts."""
        if self._task is not None and self._error is None:
            self._error = error
            self._task.cancel()
