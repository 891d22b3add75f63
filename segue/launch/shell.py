"""Runs an async context manager in a thread with its own event loop, and retries a failed start.

Ray calls an actor from outside its event loop and may restart it at any time. An actor's work
therefore starts in its constructor and lives in its own thread. No Ray here: this is tested alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from segue.api.errors import SegueError
from segue.process.cancellation import wait_at_most
from segue.worker.process.serving import leave_process

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
MAX_RETRY_S = 15.0
LEAVE_AFTER_S = 5.0
"""The wait between an unexpected failure and the exit of the process. Waiting callers receive the
failure, and a process that cannot start is not restarted in a tight loop.
"""


def end_process() -> None:
    """Ends the process, which has left the cluster in order. Ray starts a new one."""
    logger.info("exiting the process after a drain")
    os._exit(0)


Running = TypeVar("Running")
Result = TypeVar("Result")


class Shell(Generic[Running]):
    """Calls `start` in the new thread; the object that it yields serves until `stop`.

    A start that raises a SegueError (a missing folder, a taken port) is retried without limit, at
    growing intervals: Ray does not restart a living actor. After any other error the state of
    native libraries is unknown, so the process exits through `leave`, and Ray starts a new one.
    `ended` returns when the served object has ended by itself: it is then stopped in order, and the
    process exits through `end_process`.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], contextlib.AbstractAsyncContextManager[Running]],
        *,
        delays_s: Callable[[], Iterator[float]] | None = None,
        leave_after_s: float = LEAVE_AFTER_S,
        leave: Callable[[BaseException], None] = leave_process,
        ended: Callable[[Running], Awaitable[object]] | None = None,
        end_process: Callable[[], None] = end_process,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        self._start = start
        self._delays_s = delays_s or retry_delays_s
        self._leave_after_s = leave_after_s
        self._leave = leave
        self._ended = ended
        self._end_process = end_process
        self._attempt: Future[Running] = Future()
        self._stays = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._has_loop = threading.Event()
        self._loop_factory = loop_factory
        self._thread = threading.Thread(target=self._run_loop, name=name, daemon=True)
        self._thread.start()

    def wait_started(self) -> Running:
        """Blocks until it serves. Raises the error of the current start."""
        return self._attempt.result()

    @property
    def running(self) -> Running | None:
        """The object that serves; None before it does."""
        attempt = self._attempt
        return attempt.result() if attempt.done() and attempt.exception() is None else None

    def call(self, work: Callable[[Running], Coroutine[Any, Any, Result]]) -> Result:
        """Runs `work` in the shell's event loop and returns its result."""
        running = self.wait_started()
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work(running), self._loop).result()

    def retire(self, drain: Callable[[Running], Coroutine[Any, Any, Result]]) -> Result:
        """Runs `drain`, after which the served object ends by itself, and waits until it has
        stopped. The process stays, so that Ray does not start a new one in its place."""
        self._stays = True
        result = self.call(drain)
        self.stop()
        return result

    def stop(self) -> None:
        """Requests the stop, and waits until the thread has ended."""
        self._has_loop.wait()
        assert self._loop is not None
        assert self._stop is not None
        with contextlib.suppress(RuntimeError):
            # The loop may have ended just now.
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run_loop(self) -> None:
        with asyncio.Runner(loop_factory=self._loop_factory) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._has_loop.set()
        for delay_s in self._delays_s():
            error = await self._serve()
            if error is None or self._stop.is_set():
                return
            is_foreseen = isinstance(error, SegueError)
            wait_s = delay_s if is_foreseen else self._leave_after_s
            logger.error(
                "did not start; retrying" if is_foreseen else "did not start",
                extra={"error": f"{type(error).__name__}: {error}", "retry_in_s": wait_s},
                exc_info=None if is_foreseen else error,
            )
            await wait_at_most(self._stop, wait_s)
            if self._stop.is_set():
                return
            if not is_foreseen:
                self._leave(error)
                return
            self._attempt = Future()

    async def _serve(self) -> Exception | None:
        """Runs from the start to the end. Returns the error of a failed start, else None."""
        assert self._stop is not None
        attempt = self._attempt
        try:
            async with self._start() as running:
                attempt.set_result(running)
                await self._until_over(running)
        except Exception as error:
            if attempt.done():
                logger.exception("did not stop cleanly" if self._stop.is_set() else "failed")
                if not self._stop.is_set():
                    # It no longer serves, so Ray must start a new process.
                    self._leave(error)
                return None
            # Ray sends the error to another process, and only our errors are sure to pickle.
            attempt.set_exception(
                error if isinstance(error, SegueError) else RuntimeError(f"{error!r}")
            )
            return error
        if not (self._stop.is_set() or self._stays):
            self._end_process()
        return None

    async def _until_over(self, running: Running) -> None:
        """Returns when it must stop or has ended by itself."""
        assert self._stop is not None
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._stop.wait())]
        if self._ended is not None:
            waits.append(asyncio.ensure_future(self._ended(running)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def retry_delays_s() -> Iterator[float]:
    """Endless delays, which grow up to a limit."""
    return (min(FIRST_RETRY_S * 2**attempt, MAX_RETRY_S) for attempt in itertools.count())
