"""A fault that a test injects in a worker strikes once, and the test knows whether it has."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.faults.cluster.worker import FAIL, PASS, WRITE, Held, Hold


def test_a_released_worker_meets_faults_that_were_injected_meanwhile(tmp_path: Path) -> None:
    hold, held = Hold(tmp_path), Held(tmp_path)
    hold.arm(WRITE)
    writing = threading.Thread(target=held.wait_at, args=(WRITE, "to decode-0"))
    writing.start()
    while hold.held(WRITE) is None:
        pass
    hold.break_next(FAIL)
    assert not hold.has_broken()

    hold.release()

    writing.join(5)
    assert not writing.is_alive()
    assert held.take(FAIL)
    assert hold.has_broken()
    assert not held.take(FAIL)


def test_clearing_removes_faults_that_did_not_strike(tmp_path: Path) -> None:
    hold, held = Hold(tmp_path), Held(tmp_path)
    hold.arm(PASS)
    hold.break_next(FAIL)

    hold.clear()

    held.wait_at(PASS)
    assert not held.take(FAIL)
