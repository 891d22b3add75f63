"""Starts the processes of a cluster by forking one that has already imported everything.

A process that has to import torch takes seconds of a core to start, one that is forked a tenth of
that. Faults kill many.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from segue.api.types import Role

MARK = "SEGUE_FAULTS_MARK"
"""This variable is in the environment of every process that is started here."""

_IMPORTED = (
    "tests.faults.cluster.dies_with_parent",
    "router.__main__",
    "segue.gateway.__main__",
    "prefill_worker.__main__",
    "decode_worker.__main__",
    "mooncake.engine",
    "tests.faults.cluster.worker",
)
_context = multiprocessing.get_context("forkserver")


def prepare() -> None:
    """To be called before the first process starts."""
    os.environ[MARK] = mark()
    # As in `segue serve`: see segue/launch/cluster.py.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _context.set_forkserver_preload(list(_IMPORTED))
    server = forkserver._forkserver
    if server._forkserver_pid is not None and not _is_marked(server._forkserver_pid):
        # Other tests have started it: its processes would not be found.
        server._stop()


def start(kind: str, arguments: Sequence[str], *, log: Path, folder: Path) -> ForkServerProcess:
    """`kind`: a module with a `main`, or the role of a worker. Its output is appended to `log`."""
    process = _context.Process(
        target=_live, args=(kind, tuple(arguments), str(log), str(folder)), daemon=False
    )
    process.start()
    return process


def mark() -> str:
    """The value of the variable."""
    return str(os.getpid())


def marked() -> dict[int, str]:
    """Command lines of the processes that were started here, and of theirs, by process id."""
    servants = {os.getpid(), forkserver._forkserver._forkserver_pid, _tracker_pid()}
    found = {}
    for process in Path("/proc").iterdir():
        # Processes start and end during the loop.
        with contextlib.suppress(OSError):
            if not process.name.isdecimal() or int(process.name) in servants:
                continue
            if _is_marked(int(process.name)):
                command = (process / "cmdline").read_text().replace("\0", " ")
                # A process that has ended but was not waited for has none.
                if command:
                    found[int(process.name)] = command
    return found


def _is_marked(pid: int) -> bool:
    return f"{MARK}={mark()}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def with_ancestors(pid: int) -> list[int]:
    """The process, its parent, and so on."""
    chain = [pid]
    with contextlib.suppress(OSError):
        while chain[-1] > 1:
            fields = Path(f"/proc/{chain[-1]}/stat").read_text().rpartition(")")[2].split()
            chain.append(int(fields[1]))
    return chain


def _tracker_pid() -> int | None:
    return resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]  # private


def _live(kind: str, arguments: Sequence[str], log: str, folder: str) -> None:
    # It ends with the process that it was forked from, and that one with the test.
    from tests.faults.cluster.dies_with_parent import end_with_parent

    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # Written at once, as by a process of its own.
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    if kind in set(Role):
        from tests.faults.cluster.worker import main

        main(Role(kind), arguments, Path(folder))
    else:
        importlib.import_module(kind).main(arguments)
