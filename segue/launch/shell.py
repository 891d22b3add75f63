"""Runs an async context manager in a thread with an event loop of its own.

Ray calls an actor from outside its event loop and may start it again at any time, so what an actor
runs starts in its constructor and lives in its own thread. No Ray here: this is tested alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from segue.errors import SegueError


class Served(Protocol):
    @property
    def address(self) -> str: ...


Running = TypeVar("Running", bound=Served)


class Shell(Generic[Running]):
    """`start` is called in the new thread; the object that it yields serves until `stop`."""

    def __init__(
        self, name: str, start: Callable[[], contextlib.AbstractAsyncContextManager[Running]]
    ) -> None:
        self._start = start
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._running: Running | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), name=name, daemon=True
        )
        self._thread.start()

    def wait_started(self) -> Running:
        """Blocks until it serves. Raises what its start raised."""
        self._started.wait()
        if self._failure is not None:
            raise self._failure
        assert self._running is not None
        return self._running

    def stop(self) -> None:
        """Asks it to end, and waits until it has."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            async with self._start() as running:
                self._running = running
                self._started.set()
                await self._stop.wait()
        except Exception as error:
            # Before the start: told to whoever waits. Afterwards it is the end of a stop.
            self._failure = error if isinstance(error, SegueError) else RuntimeError(f"{error!r}")
        finally:
            self._started.set()
