"""How workers share cores: what the launcher sets, and the engine thread's priority."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import pytest

from segue.launch import cluster
from segue.worker.engine_thread import EngineLoop
from segue.worker.watchdog import Patience, Watchdog

LIMITS = Patience(pass_s=10.0, shipping_s=20.0)


def test_waiting_threads_spin_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")

    cluster._share_cores(2)

    assert 1000 < int(os.environ["GOMP_SPINCOUNT"]) < 100_000
    assert os.environ["OMP_NUM_THREADS"] == "7", "what is set already stays"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere priorities are of processes")
async def test_only_the_engine_thread_and_its_children_give_way() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    found: list[int] = []
    done = threading.Event()

    def step(commands: list[str]) -> bool:
        found.append(niceness())
        child = threading.Thread(target=lambda: found.append(niceness()))
        child.start()
        child.join()
        done.set()
        return False

    before = niceness()
    engine = EngineLoop("engine", step, lambda error: None, Watchdog(LIMITS).progress, niceness=3)
    try:
        engine.submit("a turn")
        assert await asyncio.to_thread(done.wait, 5)
    finally:
        await engine.close()

    assert found == [min(before + 3, 19)] * 2
    assert niceness() == before
