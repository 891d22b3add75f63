"""The router's side of a helper process (`segue/text/helper_process.py`): started on demand, does
one job at a time, and is ended when a job takes too long."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import segue
from segue.api.errors import InvalidRequest, SegueError, Unavailable
from segue.text.helper_process import read_frame, write_frame


class Helper:
    """Does jobs in order of arrival. One event loop owns it."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        name: str,
        purpose: str,
        max_job_s: float,
        too_slow: str,
    ) -> None:
        """`name`: of the thread. `purpose` completes "the process that …". `too_slow`: the error of
        a job that takes longer than `max_job_s`, not counting the process' start."""
        self._command = [sys.executable, "-m", module, *arguments]
        self._purpose = purpose
        self._max_job_s = max_job_s
        self._too_slow = too_slow
        self._is_closed = False
        self._process: subprocess.Popen[bytes] | None = None
        # The only thread that talks to the process.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    @property
    def process_id(self) -> int | None:
        return self._process.pid if self._process else None

    async def do(self, job: object) -> Any:
        """Raises the SegueError that the job raises, InvalidRequest if it takes too long, and
        Unavailable if the process cannot be started."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, job)

    def reap(self) -> None:
        """Reaps a process that has exited by itself after a long idle time."""
        if self._process is not None:
            self._process.poll()

    async def close(self) -> None:
        self._is_closed = True
        if self._process is not None:
            # Ends it at once, even in the middle of a job, which also ends the thread's wait.
            self._process.kill()
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        if self._process is not None:
            _reap(self._process)

    def _do(self, job: object) -> Any:
        is_new = self._process is None
        try:
            answer = self._ask(job)
        except (OSError, EOFError):
            self._forget_process()
            if is_new or self._is_closed:
                raise self._ended() from None
            # It exited after a long idle time, or was killed. One retry is enough to tell.
            return self._do(job)
        if isinstance(answer, SegueError):
            raise answer
        return answer

    def _ask(self, job: object) -> Any:
        if self._is_closed:
            raise self._ended()
        if self._process is None:
            self._process = _start(self._command)
            read_frame(_pipe(self._process.stdout))
        process, is_late = self._process, threading.Event()

        def give_up() -> None:
            is_late.set()
            process.kill()

        limit = threading.Timer(self._max_job_s, give_up)
        limit.start()
        try:
            write_frame(_pipe(process.stdin), job)
            return read_frame(_pipe(process.stdout))
        except (OSError, EOFError):
            if not is_late.is_set():
                raise
            self._forget_process()
            raise InvalidRequest(self._too_slow) from None
        finally:
            limit.cancel()

    def _forget_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            _reap(process)

    def _ended(self) -> Unavailable:
        return Unavailable(f"the process that {self._purpose} has exited; try again")


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    package = str(Path(segue.__file__).parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )


def _pipe(stream: IO[bytes] | None) -> Any:
    assert stream is not None, "the process was started with pipes"
    return stream


def _reap(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            # Nothing needs the data that was not written.
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()
