"""Runs the measuring process, restarts it when it dies or hangs, and keeps the report."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from threading import Thread
from time import monotonic
from typing import Any

from benchmarks.gpu.process.report import Report

Message = dict[str, Any]


class Unable(Exception):
    """This machine cannot run the plan at all."""


class Lost(Exception):
    """The process ended or fell silent. The text says which."""


def supervise(command: Sequence[str], report: Report, *, limit_s: float, silence_s: float) -> None:
    """Fills and writes `report` until the plan or the time is over. The command gets the number of
    its first item as its last argument. A process without a message for `silence_s` is killed, and
    the next one starts after the item that it was at. Raises Unable.
    """
    ends_at = monotonic() + limit_s
    first, item = 0, -1
    while True:
        name = "the start"
        try:
            for message in _messages([*command, str(first)], ends_at, silence_s):
                if "item" in message:
                    item, name = message["item"], message["name"]
                    report.show(name)
                elif "fatal" in message:
                    raise Unable(message["fatal"])
                elif report.take(message):
                    return
        except Lost as lost:
            report.problem(f"{name}: {lost}")
            if item < first:
                # It did not reach its first item, so the next one would not either.
                return
            first = item + 1
        except TimeoutError:
            report.problem(f"the time was over at {name}")
            return


def _messages(command: Sequence[str], ends_at: float, silence_s: float) -> Iterator[Message]:
    """Raises Lost, and TimeoutError when the time is over."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    stdout = process.stdout
    reader = Thread(target=_read, args=(stdout, lines.put), daemon=True)
    reader.start()
    try:
        while True:
            left = ends_at - monotonic()
            try:
                line = lines.get(timeout=max(min(silence_s, left), 0.0))
            except queue.Empty:
                if left <= silence_s:
                    raise TimeoutError from None
                raise Lost(f"no result for {silence_s:g} s") from None
            if line is None:
                raise Lost(f"it ended with status {process.wait()}")
            yield json.loads(line)
    finally:
        # With the compilers that it started.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join()
        stdout.close()


def _read(stdout: Any, put: Callable[[str | None], None]) -> None:
    for line in stdout:
        if line.startswith("{"):
            put(line)
        else:
            # Some library's.
            sys.stderr.write(line)
    put(None)
