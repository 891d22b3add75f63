"""The router's side of helper processes (`segue/text/helper_process.py`), and the helper that makes
very long prompts."""

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
from segue.api.errors import InvalidRequest, Overloaded, SegueError, Unavailable
from segue.api.types import TurnInput
from segue.text.helper_process import read_frame, write_frame
from segue.text.session_prompt import PromptRecord, SessionPrompt

# Limits the router's memory for inputs that wait for the prompt helper or are being tokenised.
_MAX_WAITING_CHARACTERS = 64 << 20
# Rough speed of the prompt helper, for the time after which to retry.
_CHARACTERS_PER_S = 1_000_000
# A prompt of a million tokens takes some seconds. A single word of megabytes would take minutes.
_MAX_PROMPT_S = 30.0


class Helper:
    """A process that is started on demand and does one job at a time, in order of arrival. A job
    that takes too long ends it. One event loop owns this object."""

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
        """`name`: the thread's name. `purpose` completes "the process that …". `too_slow`: the
        error for a job that takes longer than `max_job_s`, not counting the process's start."""
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
            # Ends it at once, even during a job, which also ends the thread's wait.
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
            # It exited after a long idle time, or was killed. If it was idle, one retry suffices.
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


class PromptHelper(Helper):
    """Makes very long prompts."""

    def __init__(self, folder: Path, max_context: int, *, max_job_s: float = _MAX_PROMPT_S) -> None:
        super().__init__(
            "segue.text.helper_process",
            [str(folder), str(max_context)],
            name="prompt-helper",
            purpose="tokenises long prompts",
            max_job_s=max_job_s,
            too_slow=(
                f"the messages could not be rendered and tokenised within {max_job_s:g} s: "
                "shorten them"
            ),
        )
        self._waiting_characters = 0

    async def encode_turn(
        self,
        turn_input: TurnInput,
        memory: PromptRecord | None,
        num_same: int,
        *,
        num_characters: int,
    ) -> SessionPrompt:
        """Raises Overloaded if too much is queued, and what `PromptEncoder.encode_turn` raises."""
        waiting = self._waiting_characters + num_characters
        if self._waiting_characters and waiting > _MAX_WAITING_CHARACTERS:
            raise Overloaded.after(
                f"prompts of {self._waiting_characters} characters wait to be tokenised, and "
                f"{num_characters} more would exceed {_MAX_WAITING_CHARACTERS}: try again later",
                retry_after_s=waiting / _CHARACTERS_PER_S,
            )
        self._waiting_characters = waiting
        try:
            made = await self.do((turn_input, memory, num_same))
            assert isinstance(made, SessionPrompt)
            return made
        finally:
            self._waiting_characters -= num_characters


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
            # Data that was not written is not needed.
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()
