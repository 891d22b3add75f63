"""A process that builds prompts from long inputs: `python -m segue.text.helper_process FOLDER
MAX_CONTEXT`.

One call that renders or tokenises holds the GIL until it returns, and some calls (megabytes of
JSON, a template's filters) take seconds. In a separate process they do not block the router. The
parent writes jobs to standard input and reads answers from standard output. A frame is a length of
eight bytes and a pickle. The process exits when its parent has exited.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from segue.api.errors import SegueError
from segue.process.heap import give_freed_memory_back
from segue.text.prompt import PromptEncoder

LENGTH_BYTES = 8
_IDLE_S = 600.0
"""After this idle time the process exits and frees its memory; the next job starts a new one."""
_NICENESS = 5
"""The router and its workers have priority."""


def write_frame(stream: BinaryIO, value: object) -> None:
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(len(data).to_bytes(LENGTH_BYTES, "big"))
    stream.write(data)
    stream.flush()


def read_frame(stream: BinaryIO) -> Any:
    """Raises EOFError when the other side has closed."""
    length = int.from_bytes(_read(stream, LENGTH_BYTES), "big")
    return pickle.loads(_read(stream, length))


def _read(stream: BinaryIO, num_bytes: int) -> bytes:
    data = stream.read(num_bytes)
    if len(data) < num_bytes:
        raise EOFError("the other side of the pipe has closed")
    return data


def main() -> None:
    def make() -> Callable[[Any], object]:
        encoder = PromptEncoder.from_folder(Path(sys.argv[1]), max_context=int(sys.argv[2]))
        return lambda job: encoder.encode_turn(*job)

    serve_jobs(make)


def serve_jobs(make: Callable[[], Callable[[Any], object]]) -> None:
    """Answers jobs with the function that `make` returns, or with the SegueError that it raises,
    until the parent has exited. The first answer, None, means that the process is ready.
    """
    # The parent handles Ctrl-C, and closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Output of print() must not end up among the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    do = make()
    write_frame(answers, None)
    while select.select([jobs], [], [], _IDLE_S)[0]:
        try:
            job = read_frame(jobs)
        except EOFError:
            return
        try:
            write_frame(answers, _answer(do, job))
        except BrokenPipeError:
            return
        del job
        give_freed_memory_back()


def _answer(do: Callable[[Any], object], job: Any) -> object:
    try:
        return do(job)
    except SegueError as error:
        return error
    # The parent raises it, and its log names the source.
    except Exception as error:
        return SegueError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
