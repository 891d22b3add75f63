from __future__ import annotations

import sys
import threading
import time

from segue.process.telemetry import RateMeter


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
