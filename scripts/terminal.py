"""Runs a program in a pseudo-terminal: types into it and reads its screen, as a person would."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"
_PRESSES_EVERY_S = 6.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


class Process(Protocol):
    """What is needed of a `subprocess.Popen`."""

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...


class Start(Protocol):
    def __call__(
        self, command: Sequence[str], *, stream: int, env: Mapping[str, str], cwd: Path | None
    ) -> Process:
        """Starts a command in a session of its own, of which `stream` is the terminal."""
        ...


class Terminal:
    """The screen and keyboard of a running program."""

    def __init__(self, process: Process, descriptor: int) -> None:
        self.process = process
        self.screen = ""
        """All output so far, without colours and cursor movements."""
        self._descriptor = descriptor
        self._raw = ""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def wait_for(self, text: str, *, timeout_s: float = 60.0, since: int = 0) -> int:
        """Waits until `text` is on the screen at `since` or later; returns the position of its end.

        Raises TimeoutError, and RuntimeError if the program ends without it.
        """
        ends_at = time.monotonic() + timeout_s
        while (found := self.screen.find(text, since)) < 0:
            if time.monotonic() > ends_at:
                raise TimeoutError(f"{text!r} did not appear; the screen is {self.screen!r}")
            if not self._read(0.1):
                raise RuntimeError(f"the program ended without printing {text!r}: {self.screen!r}")
        return found + len(text)

    def wait_for_end(self, *, timeout_s: float = 60.0, pressing: str = "") -> int:
        """Reads until the program ends. Returns its exit status, negative for a signal.

        `pressing` is typed repeatedly until then: if a Ctrl-C comes in the microseconds between a
        prompt and the wait for a key, readline sees it only with the next key, so a person would
        press again. It is repeated slowly, because a Ctrl-C during Python's own exit kills it.
        """
        ends_at = time.monotonic() + timeout_s
        press_at = time.monotonic()
        while self._read(0.1):
            if time.monotonic() > ends_at:
                raise TimeoutError(f"the program did not end; the screen is {self.screen!r}")
            if pressing and time.monotonic() >= press_at:
                with contextlib.suppress(OSError):
                    self.type(pressing)
                press_at += _PRESSES_EVERY_S
        return self.process.wait(max(1.0, ends_at - time.monotonic()))

    def _read(self, seconds: float) -> bool:
        """Reads available output. False if the program has closed its terminal."""
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:
            # Linux raises this when the other side is closed.
            return False
        self._raw += data.decode(errors="replace")
        self.screen = _ESCAPES.sub("", self._raw).replace("\r\n", "\n")
        return bool(data)


# Ctrl-C reaches the program only if this is the controlling terminal of its session. A function
# that runs between fork and exec would do, but a fork beside gRPC's threads may abort.
_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def _start(
    command: Sequence[str], *, stream: int, env: Mapping[str, str], cwd: Path | None
) -> Process:
    return subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL, *command],
        stdin=stream,
        stdout=stream,
        stderr=stream,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )


@contextlib.contextmanager
def terminal(
    command: Sequence[str],
    *,
    columns: int = 80,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    start: Start | None = None,
) -> Iterator[Terminal]:
    """Starts `command` in its own terminal and terminates it on exit. `start`: as a new process if
    not given."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    start = start or _start
    env = {**(os.environ if env is None else env), "TERM": "xterm"}
    process = start(command, stream=theirs, env=env, cwd=cwd)
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            os.close(ours)
