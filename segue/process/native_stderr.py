"""Captures native libraries' output to standard error, which bypasses Python's logging."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator

# The descriptor belongs to the process: two captures would restore each other's files.
_lock = threading.Lock()


@contextlib.contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Captures writes to descriptor 2 until the block ends; call the yielded function to read them.

    `sys.stderr` still shows Python's output. Processes started in the block inherit the capture. It
    is a file in memory, so they can continue to write to it, and a full disk does not matter.
    """
    with _lock, os.fdopen(os.memfd_create("stderr"), "wb") as file:
        sys.stderr.flush()
        shown = os.dup(2)
        python_stderr = sys.stderr
        os.dup2(file.fileno(), 2)
        sys.stderr = _text_on(os.dup(shown))

        def text() -> str:
            # pread does not move the descriptor's position, at which the next line is written.
            size = os.fstat(file.fileno()).st_size
            return os.pread(file.fileno(), size, 0).decode(errors="replace")

        try:
            yield text
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            sys.stderr.close()
            sys.stderr = python_stderr


def silence_native_stderr() -> None:
    """Silences it for the rest of the process, for example while a native thread still logs errors
    during the exit. `sys.stderr` still shows Python's output.
    """
    with _lock:
        sys.stderr.flush()
        sys.stderr = _text_on(os.dup(2))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)


def _text_on(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(os.fdopen(descriptor, "wb", buffering=0), write_through=True)
