"""Simulated time, and threads that alternate with the loop."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from tests.virtual.clock import STARTS_AT, Deadlock, VirtualLoop, run
from tests.virtual.network import HERE, Process
from tests.virtual.threads import Alternating


def test_hours_pass_at_once_and_in_order() -> None:
    async def work() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        seen: list[tuple[str, float]] = []

        async def note(name: str, after_s: float) -> None:
            await asyncio.sleep(after_s)
            seen.append((name, loop.time() - STARTS_AT))

        await asyncio.gather(note("late", 7200.0), note("early", 0.5), note("now", 0.0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600.0):
                await asyncio.Event().wait()
        seen.append(("end", loop.time() - STARTS_AT))
        return seen

    started_at = time.monotonic()
    assert run(work()) == [("now", 0.0), ("early", 0.5), ("late", 7200.0), ("end", 10_800.0)]
    assert time.monotonic() - started_at < 10.0


def test_a_deadlock_is_found() -> None:
    loop = VirtualLoop()
    waiting = loop.create_task(asyncio.Event().wait())

    with pytest.raises(Deadlock, match="no task can go on"):
        loop.run_until_complete(waiting)

    waiting.cancel()
    loop.run_until_complete(asyncio.wait({waiting}))
    loop.close()


def test_a_helper_thread_s_work_takes_virtual_time() -> None:
    async def work() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.thread_s = lambda: 5.0
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return await asyncio.to_thread(lambda: 7), loop.time() - STARTS_AT

    assert run(work()) == (7, 10.0)


def test_a_thread_runs_only_while_the_loop_waits_for_it() -> None:
    async def work() -> list[str]:
        process = Process("a worker", "a:1", random.Random(0))
        HERE.set(process)
        seen: list[str] = []

        def on_thread() -> None:
            seen.append("starts")
            thread.wait()
            seen.append("is woken")
            thread.sleep(2.0)
            seen.append("has slept")

        thread = Alternating("a thread", on_thread)
        await asyncio.sleep(1.0)
        seen.append("loop")
        thread.wake()
        await asyncio.sleep(1.0)
        seen.append("loop")
        # A process that is stopped does not wake up.
        process.frozen_until = asyncio.get_running_loop().time() + 10.0
        await asyncio.sleep(5.0)
        seen.append("loop")
        await asyncio.sleep(6.0)
        assert thread.is_over
        return seen

    assert run(work()) == ["starts", "loop", "is woken", "loop", "loop", "has slept"]
