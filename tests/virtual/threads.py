"""A worker's threads in virtual time: each runs only while the event loop waits for it.

So the order of events depends on a seed and not on the machine. A thread can sleep in the middle of
its work, such as between two layers or halfway through a write, while the loop goes on.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from segue.worker.watchdog import EngineProgress
from tests.virtual.network import HERE, Process

_this = threading.local()


def sleep_in_thread(seconds: float) -> None:
    """Lets virtual time pass, on one of these threads."""
    _this.alternating.sleep(seconds)


def stand_still_if_stuck() -> None:
    """On one of these threads: returns when its process is no longer stuck, or has ended."""
    process = process_of_thread()
    while process.engine_is_stuck and not process.is_dead:
        sleep_in_thread(0.1)


def process_of_thread() -> Process:
    process: Process = _this.alternating.process
    return process


class Alternating:
    """A thread and the event loop, of which always exactly one runs."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.process = HERE.get()
        self.is_over = False
        self._loop = asyncio.get_running_loop()
        self._for_thread, self._for_loop = threading.Semaphore(0), threading.Semaphore(0)
        self._is_waiting = False
        self._thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        self._thread.start()
        self._loop.call_soon(self._resume)

    def sleep(self, seconds: float) -> None:
        """On the thread."""
        self._loop.call_later(seconds, self._resume)
        self._suspend()

    def wait(self) -> None:
        """On the thread: until `wake`."""
        self._is_waiting = True
        self._suspend()

    def wake(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._loop.call_soon(self._resume)

    def finish(self) -> None:
        """On the loop: returns when the work is done. Time does not pass."""
        while not self.is_over:
            self._switch()

    def _run(self, work: Callable[[], None]) -> None:
        self._for_thread.acquire()
        _this.alternating = self
        try:
            work()
        finally:
            self.is_over = True
            self._for_loop.release()

    def _resume(self) -> None:
        late_s = self.process.frozen_until - self._loop.time()
        if self.is_over:
            return
        if late_s > 0:
            self._loop.call_later(late_s, self._resume)
        else:
            self._switch()

    def _switch(self) -> None:
        self._for_thread.release()
        self._for_loop.acquire()

    def _suspend(self) -> None:
        self._for_loop.release()
        self._for_thread.acquire()


class VirtualEngineLoop:
    """Replaces `segue.worker.engine_thread.EngineLoop`."""

    def __init__(
        self,
        name: str,
        step: Callable[[list[Any]], bool],
        on_crash: Callable[[BaseException], None],
        progress: EngineProgress,
        *,
        niceness: int = 0,
    ) -> None:
        """`niceness` has no meaning where one thread runs at a time."""
        self._step = step
        self._progress = progress
        self._on_crash = on_crash
        self._commands: list[Any] = []
        self._is_closing = self._has_crashed = False
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._thread = Alternating(name, self._run)

    def submit(self, command: Any) -> None:
        self._commands.append(command)
        self._thread.wake()

    def publish(self, call: Callable[[], None]) -> None:
        # In the process that the thread belongs to.
        self._loop.call_soon_threadsafe(call, context=self._context)

    async def close(self) -> None:
        self._is_closing = True
        self._thread.wake()
        while not self._thread.is_over:
            await asyncio.sleep(0.001)

    def _run(self) -> None:
        has_work = False
        while True:
            while not (has_work or self._commands or self._is_closing):
                self._progress.rests()
                self._thread.wait()
            if self._is_closing:
                return
            commands, self._commands = self._commands, []
            self._progress.beat()
            stand_still_if_stuck()
            try:
                has_work = self._step(commands)
            except Exception as error:
                self._crash(error)
                has_work = False
            self._thread.sleep(self._thread.process.draw.uniform(0.001, 0.02))

    def _crash(self, error: Exception) -> None:
        """Ends the process, at which all that waits for this thread is gone. Here it has to end, so
        the thread continues without effect."""
        if not self._has_crashed:
            self._has_crashed = True
            self.publish(lambda: self._on_crash(error))


class VirtualLane:
    """Replaces `kv_transfer.writing.outgoing.Lane`. Its queue always has room."""

    def __init__(self, name: str, *, max_waiting_bytes: int) -> None:
        self.changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._is_closed = False
        self._thread = Alternating(name, self._run)

    def wait_for_room(self, num_bytes: int, is_wanted: Callable[[], bool]) -> None:
        pass

    def put(self, run: Callable[[], None], num_bytes: int) -> None:
        if self._is_closed:
            raise RuntimeError("the lane is closed")
        self._jobs.append(run)
        self._thread.wake()

    def close(self) -> None:
        self._is_closed = True
        self._thread.finish()

    def _run(self) -> None:
        while True:
            while not (self._jobs or self._is_closed):
                self._thread.wait()
            if not self._jobs:
                return
            self._jobs.popleft()()
