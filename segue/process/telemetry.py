"""Logging, clocks and a rate meter. The metrics are in each process's `metrics.py`."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from segue.process.tracing.context import current

Clock = Callable[[], float]

_turn: contextvars.ContextVar[str] = contextvars.ContextVar("turn", default="-")


@contextlib.contextmanager
def about_turn(turn_id: str) -> Iterator[None]:
    """Adds the turn's id to all log lines inside."""
    token = _turn.set(turn_id)
    try:
        yield
    finally:
        _turn.reset(token)


def _add_turn(record: logging.LogRecord) -> bool:
    """A filter that adds the turn and its trace to each record."""
    record.turn = _turn.get()
    context = current()
    record.trace = f" trace={context.trace_id}" if context is not None else ""
    return True


# The standard attributes of a record. All others come from `extra`.
_RECORD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {
    *("turn", "trace", "message", "asctime")
}


# Characters that could end a line, move a terminal's cursor or hide text: C0 and C1 controls, line
# and paragraph separators, bidirectional marks, halves of surrogate pairs.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escaped(text: str) -> str:
    """The text as one line: names and messages may quote client input."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


class _LineFormatter(logging.Formatter):
    """The message, then each `extra` as name=value. Only a traceback has further lines, which are
    indented, so that no client input can look like a line of its own.
    """

    def __init__(self, layout: str) -> None:
        super().__init__(layout)
        self._second = 0
        self._second_text = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        # Most lines are in the same second as the line before.
        if (second := int(record.created)) != self._second:
            self._second = second
            self._second_text = time.strftime(self.default_time_format, time.localtime(second))
        return f"{self._second_text},{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        extra = {k: v for k, v in record.__dict__.items() if k not in _RECORD_FIELDS}
        line = self.formatMessage(record)
        line = escaped(line + "".join(f" {name}={value}" for name, value in extra.items()))
        if record.exc_info:
            traceback = self.formatException(record.exc_info)
            line += "".join(f"\n    {escaped(below)}" for below in traceback.split("\n"))
        return line


class _LineHandler(logging.StreamHandler[TextIO]):
    """Drops a line that cannot be written, for example on a full disk, so that logging never ends a
    turn or a process.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def setup_logging(process_name: str, level: str = "INFO", *, file: Path | None = None) -> None:
    """One line per record: time, level, process, turn, its trace if it has one, logger, message,
    extras.

    Writes to stderr, or appends to `file`, which does not get the output of libraries.
    """
    handler = _LineHandler(sys.stderr if file is None else file.open("a", encoding="utf-8"))
    handler.addFilter(_add_turn)
    handler.setFormatter(
        _LineFormatter(
            f"%(asctime)s %(levelname)s {process_name} turn=%(turn)s%(trace)s %(name)s: %(message)s"
        )
    )
    # No line shows these fields, and each costs a system call or a walk up the stack.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


class RateMeter:
    """Events per second over the last `window_s`, for people; Prometheus has the counters.

    One thread may add while another reads.
    """

    def __init__(self, window_s: float = 10.0, clock: Clock = time.monotonic) -> None:
        self._window_s = window_s
        self._clock = clock
        self._started_at = clock()
        self._events: collections.deque[tuple[float, int]] = collections.deque()

    def add(self, count: int) -> None:
        now = self._clock()
        self._events.append((now, count))
        while self._events[0][0] < now - self._window_s:
            self._events.popleft()

    def per_second(self) -> float:
        now = self._clock()
        # `copy` is atomic; iterating while another thread adds would raise.
        recent = [count for at, count in self._events.copy() if at >= now - self._window_s]
        elapsed = min(self._window_s, now - self._started_at)
        return sum(recent) / elapsed if elapsed > 0 else 0.0
