"""An event loop whose time is simulated: it jumps to the next timer when nothing else can run.

What takes minutes in a cluster takes milliseconds here, and nothing depends on the machine's speed.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

Result = TypeVar("Result")
STARTS_AT = 1_000.0


class Deadlock(AssertionError):
    """Every task waits for another, and no timer will wake one."""


class _JumpingSelector(selectors.DefaultSelector):
    now = STARTS_AT

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise Deadlock("no task can go on, and no timer is set")
        self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """No helper threads: what would run in one runs on the loop, some time later."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        self.thread_s: Callable[[], float] = lambda: 0.0
        """How long a helper thread needs for its work."""
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., Result], *args: Any
    ) -> asyncio.Future[Result]:
        done: asyncio.Future[Result] = self.create_future()

        def run() -> None:
            # A thread goes on even if nothing waits for it any more.
            try:
                result = func(*args)
            except Exception as error:
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(result)

        self.call_later(self.thread_s(), run)
        return done


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs `work` in virtual time. Raises Deadlock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
