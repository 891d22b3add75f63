"""The engine thread owns the sequences, asyncio everything else. The two exchange messages.

    asyncio ─ submit(command) ─▶ inbox ─▶ engine thread: step(commands) ─ publish(call) ─▶ asyncio

The thread sleeps when the last step left no work and there is no command.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from segue.api.errors import SegueError, Unavailable
from segue.api.types import TurnId
from segue.parallel.rank import RanksLost
from segue.worker.watchdog import EngineProgress

logger = logging.getLogger(__name__)

Command = TypeVar("Command")


class EngineLoop(Generic[Command]):
    """Runs `step(commands) -> has_work` in one thread until closed.

    An exception that escapes `step` ends the thread and is handed to `on_crash` on the event loop:
    an engine in an unknown state must not continue. `progress` beats before each step; a step that
    takes long beats on the way.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[list[Command]], bool],
        on_crash: Callable[[BaseException], None],
        progress: EngineProgress,
        *,
        niceness: int = 0,
    ) -> None:
        """`niceness` is added to that of this thread and of the OpenMP threads that it starts. The
        event loop keeps its own, so that heartbeats and handoffs wait for no computing."""
        self._step = step
        self._progress = progress
        self._niceness = niceness
        self._on_crash = on_crash
        self._inbox: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._asyncio_loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, command: Command) -> None:
        """From any thread; commands arrive in order."""
        self._inbox.put(command)

    def publish(self, call: Callable[[], None]) -> None:
        """From the engine thread: runs `call` on the event loop, in order."""
        self._asyncio_loop.call_soon_threadsafe(call)

    async def close(self) -> None:
        """Ends the thread after the step it is in."""
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        has_work = False
        if self._niceness:
            give_way(self._niceness)
        self._progress.thread_id = threading.get_ident()
        try:
            while True:
                if not has_work:
                    self._progress.rests()
                commands, is_closing = self._receive(wait=not has_work)
                if is_closing:
                    return
                self._progress.beat()
                has_work = self._step(commands)
        except Exception as error:
            logger.exception("the engine stopped")
            crash = error
            self.publish(lambda: self._on_crash(crash))
        finally:
            self._progress.rests()

    def _receive(self, *, wait: bool) -> tuple[list[Command], bool]:
        commands: list[Command] = []
        if wait:
            first = self._inbox.get()
            if first is None:
                return commands, True
            commands.append(first)
        while True:
            try:
                command = self._inbox.get_nowait()
            except queue.Empty:
                return commands, False
            if command is None:
                return commands, True
            commands.append(command)


@dataclass(frozen=True, slots=True)
class Drop:
    """A command to either kind of engine: ends the turn without a result."""

    turn_id: TurnId


def give_way(niceness: int) -> None:
    """Lowers the calling thread's priority, and that of threads which it starts later."""
    # On Linux, each thread has its own priority, set by the thread's id.
    thread = threading.get_native_id() if sys.platform == "linux" else 0
    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + niceness)


class Failures:
    """Decides which errors of an engine end a turn, and which end the process. The engine thread
    owns it.

    An error that concerns one sequence ends that sequence. An error in a pass ends all sequences of
    that pass: their part of the cache may be half written. If the next pass fails as well, the
    engine is broken, not a sequence: then the process must not continue.
    """

    def __init__(self) -> None:
        self._has_failed = False

    def passed(self) -> None:
        """A pass succeeded."""
        self._has_failed = False

    def of_pass(self, error: Exception) -> SegueError:
        """The error for the sequences of the pass, which may be retried elsewhere. Raises `error`
        if the previous pass failed too, or if the other ranks are lost.
        """
        if self._has_failed or isinstance(error, RanksLost):
            raise error
        self._has_failed = True
        logger.error("a pass failed; its turns end", exc_info=error)
        return Unavailable(
            f"a pass over this turn and others failed: {type(error).__name__}: {error}"
        )

    def of_sequence(self, error: Exception) -> SegueError:
        """The error for a sequence that failed by itself."""
        logger.error("a sequence failed; its turn ends", exc_info=error)
        return SegueError(f"the turn could not be computed: {type(error).__name__}: {error}")
