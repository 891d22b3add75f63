from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from segue.process.telemetry import RateMeter, about_turn, setup_logging


def test_a_rate_covers_only_the_last_seconds() -> None:
    now = [0.0]
    meter = RateMeter(window_s=10.0, clock=lambda: now[0])
    meter.add(100)
    now[0] = 4.0
    meter.add(20)
    assert meter.per_second() == 30.0

    now[0] = 12.0
    assert meter.per_second() == 2.0
    now[0] = 15.0
    assert meter.per_second() == 0.0


def test_a_rate_may_be_read_while_another_thread_adds_to_it() -> None:
    meter = RateMeter(window_s=0.01)
    is_over = threading.Event()

    def add() -> None:
        while not is_over.is_set():
            meter.add(1)

    adding = threading.Thread(target=add)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        adding.start()
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            assert meter.per_second() >= 0.0
    finally:
        is_over.set()
        adding.join()
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("file", ["", "/dev/full"], ids=["stderr", "file"])
def test_a_line_that_cannot_be_written_is_dropped(file: str) -> None:
    """`/dev/full` is a full disk. In a process of its own, whose standard error is on it, too."""
    code = """
import logging, sys
from pathlib import Path
from segue.process.telemetry import setup_logging

setup_logging("worker", file=Path(sys.argv[1]) if sys.argv[1] else None)
for number in range(2_000):
    logging.getLogger("worker").info("turn ended", extra={"number": number})
try:
    raise LookupError("a bug")
except LookupError:
    logging.getLogger("worker").exception("unexpected error")
print("alive", flush=True)
"""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, file], stdout=subprocess.PIPE, stderr=full, text=True
        )

    assert done.stdout == "alive\n"


def test_a_line_that_cannot_be_formatted_is_reported() -> None:
    code = """
import logging
from segue.process.telemetry import setup_logging

setup_logging("worker")
logging.getLogger("worker").info("%d pages", "seven")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "%d format" in done.stderr


HOSTILE = "a\nINFO router: forged\r\x1b[2J\x9b31m\u2028\u202eb\x00\ud800"


def logged(write: Callable[[logging.Logger], None], file: Path) -> str:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    setup_logging("router", file=file)
    try:
        write(logging.getLogger("segue.test"))
    finally:
        for handler in root.handlers:
            assert isinstance(handler, logging.StreamHandler)
            handler.stream.close()
        root.handlers[:], root.level = handlers, level
    return file.read_text()


def test_no_text_of_a_client_ends_a_line_or_moves_a_cursor(tmp_path: Path) -> None:
    def write(logger: logging.Logger) -> None:
        with about_turn(HOSTILE):
            logger.info("turn ended: %s", HOSTILE, extra={"session": HOSTILE, "ünïcode": "日本 ok"})

    text = logged(write, tmp_path / "log")

    assert text.count("\n") == 1
    assert text.isprintable() or text[:-1].isprintable()
    assert text.count(r"a\nINFO router: forged\r\x1b[2J\x9b31m\u2028\u202eb\x00\ud800") == 3
    assert "ünïcode=日本 ok" in text


def test_a_traceback_cannot_look_like_a_line(tmp_path: Path) -> None:
    def write(logger: logging.Logger) -> None:
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            logger.exception("failed")

    first, *below = logged(write, tmp_path / "log").splitlines()

    assert "segue.test: failed" in first
    assert len(below) > 3
    assert all(line.startswith("    ") and line.isprintable() for line in below)
