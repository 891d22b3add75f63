"""The HTTP server of a process that listens to signals itself, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Generator
from time import monotonic

import uvicorn

logger = logging.getLogger(__name__)

_LOOK_S = 0.1
_LAST_WORDS_S = 1.0


class HttpServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves signals to the process, which may be more than a gateway."""
        yield

    async def drain(self, serving: asyncio.Task[None], within_s: float) -> None:
        """Takes no more connections, and waits for `serve` to return. What has not ended in time is
        cancelled, and what its client does not read a second later is lost."""
        self.should_exit = True
        if not await _ends(serving, within_s):
            if tasks := list(self.server_state.tasks):
                logger.warning("requests did not end in time", extra={"cancelled": len(tasks)})
            for task in tasks:
                task.cancel()
            if not await _ends(serving, _LAST_WORDS_S):
                for connection in list(self.server_state.connections):
                    connection.transport.abort()
        await serving


async def _ends(task: asyncio.Task[None], within_s: float) -> bool:
    """Whether it ends in time. While this process stands still, so does the time: what came
    meanwhile (the rest of all answers) is still to be handled."""
    left_s = within_s
    while left_s > 0 and not task.done():
        started_at = monotonic()
        await asyncio.wait([task], timeout=min(_LOOK_S, left_s))
        left_s -= min(monotonic() - started_at, 2 * _LOOK_S)
    return task.done()
