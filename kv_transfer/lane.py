"""One thread that runs jobs in order, and the bounded queue before it."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[], None]
    num_bytes: int


class Lane:
    """`changed` guards this lane and everything that its jobs share with other threads.

    Jobs run without holding it. They must not raise.
    """

    def __init__(self, name: str, *, max_waiting_bytes: int) -> None:
        self.changed = threading.Condition()
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting_bytes = 0
        self._jobs: collections.deque[_Job] = collections.deque()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wait_for_room(self, num_bytes: int, is_wanted: Callable[[], bool]) -> None:
        """Returns when the bytes fit, or when `is_wanted()` has become false. Needs `changed`.

        More bytes than the whole queue may hold fit when it is empty.
        """
        self.changed.wait_for(lambda: self._fits(num_bytes) or not is_wanted())

    def put(self, run: Callable[[], None], num_bytes: int) -> None:
        """Queues a job. Needs `changed`."""
        if self._is_closed:
            raise RuntimeError("the lane is closed")
        self._jobs.append(_Job(run, num_bytes))
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
        while (job := self._next_job()) is not None:
            job.run()

    def _next_job(self) -> _Job | None:
        with self.changed:
            self.changed.wait_for(lambda: self._jobs or self._is_closed)
            if not self._jobs:
                return None
            job = self._jobs.popleft()
            self._waiting_bytes -= job.num_bytes
            self.changed.notify_all()
            return job
