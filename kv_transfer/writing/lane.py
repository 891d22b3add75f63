"""A thread with a bounded queue of jobs."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable


class Lane:
    """A thread and its queue. `changed` guards both, and what jobs share with other threads.

    Jobs run without holding `changed`. They must not raise.
    """

    def __init__(self, name: str, *, max_waiting_bytes: int) -> None:
        self.changed = threading.Condition()
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting_bytes = 0
        self._jobs: collections.deque[tuple[Callable[[], None], int]] = collections.deque()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wait_for_room(self, num_bytes: int, is_wanted: Callable[[], bool]) -> None:
        """Returns when the bytes fit or `is_wanted()` is false. The caller must hold `changed`.

        An empty queue takes any number of bytes.
        """
        self.changed.wait_for(lambda: self._fits(num_bytes) or not is_wanted())

    def put(self, run: Callable[[], None], num_bytes: int) -> None:
        """Queues a job. The caller must hold `changed`."""
        if self._is_closed:
            raise RuntimeError("the lane is closed")
        self._jobs.append((run, num_bytes))
        self._waiting_bytes += num_bytes
        self.changed.notify_all()

    def close(self) -> None:
        """Returns when every queued job has run and the thread has ended."""
        with self.changed:
            self._is_closed = True
            self.changed.notify_all()
        self._thread.join()

    def _fits(self, num_bytes: int) -> bool:
        return not self._jobs or self._waiting_bytes + num_bytes <= self._max_waiting_bytes

    def _run(self) -> None:
        while (run := self._next_job()) is not None:
            run()

    def _next_job(self) -> Callable[[], None] | None:
        with self.changed:
            self.changed.wait_for(lambda: self._jobs or self._is_closed)
            if not self._jobs:
                return None
            run, num_bytes = self._jobs.popleft()
            self._waiting_bytes -= num_bytes
            self.changed.notify_all()
            return run
