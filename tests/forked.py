"""Programs as forks of a process that has imported what they import: torch, for example, takes two
seconds of a core. They get their own arguments, environment, standard streams and session.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MAX_BYTES = 1 << 20


class Forked:
    """A running program, with the methods of `subprocess.Popen` that tests need."""

    def __init__(self, pid: int, status: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        with contextlib.suppress(TimeoutError):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises TimeoutError."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                status = self._status.recv(_MAX_BYTES)
            except BlockingIOError:
                raise TimeoutError from None
            self.returncode = os.waitstatus_to_exitcode(int(status))
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Imported:
    """A process that has imported these modules, and no others than they import."""

    def __init__(self, *modules: str) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked", str(theirs.fileno()), *modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def start(
        self,
        function: str,
        arguments: Sequence[str],
        *,
        streams: tuple[int, int, int],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Forked:
        """`function`: "module:name". `streams`: descriptors for stdin, stdout and stderr. If stdin
        is a terminal, it controls the program."""
        env = dict(os.environ if env is None else env)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        about = {"function": function, "arguments": list(arguments), "env": env}
        request = json.dumps({**about, "cwd": str(cwd or Path.cwd())})
        with theirs:
            socket.send_fds(self._ours, [request.encode()], [theirs.fileno(), *streams])
        return Forked(int(ours.recv(_MAX_BYTES)), ours)

    def close(self) -> None:
        self._ours.close()
        self._process.wait()


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    # Collections in the programs would copy these objects.
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, _MAX_BYTES, 4)
        if not message:
            return
        if os.fork() == 0:
            requests.close()
            break
        for descriptor in descriptors:
            os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status, *streams = descriptors
    _fork_and_wait(status, streams)
    _become(json.loads(message), streams)


def _fork_and_wait(status: int, streams: Sequence[int]) -> None:
    """Returns in a new process. This one waits for its end."""
    with socket.socket(fileno=status) as replies:
        pid = os.fork()
        if pid == 0:
            return
        for stream in (0, 1, 2, *streams):
            os.close(stream)
        # The test may have ended.
        with contextlib.suppress(OSError):
            replies.send(str(pid).encode())
            replies.send(str(os.waitpid(pid, 0)[1]).encode())
        os._exit(0)


def _become(request: dict[str, Any], streams: Sequence[int]) -> None:
    """Runs the program."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # As at the start of Python.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    module, _, name = request["function"].partition(":")
    sys.argv = [module, *request["arguments"]]
    getattr(importlib.import_module(module), name)()


if __name__ == "__main__":
    main()
