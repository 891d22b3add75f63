"""The code that an actor runs, without Ray: its start, its retries and its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest

from segue.api.errors import InvalidCheckpoint
from segue.launch.shell import FIRST_RETRY_S, MAX_RETRY_S, Shell, retry_delays_s


@dataclass(frozen=True, slots=True)
class Served:
    address: str


@dataclass
class Starts:
    """A start that raises these errors in turn, and then serves."""

    errors: list[Exception] = field(default_factory=list)
    num_started: int = 0
    has_served: threading.Event = field(default_factory=threading.Event)
    has_ended: threading.Event = field(default_factory=threading.Event)

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[Served]:
        self.num_started += 1
        if self.errors:
            raise self.errors.pop(0)
        self.has_served.set()
        yield Served("127.0.0.1:7")
        self.has_ended.set()


def at_once() -> Iterator[float]:
    return itertools.repeat(0.0)


def test_it_serves_until_it_is_stopped() -> None:
    starts = Starts()
    shell = Shell("decode-0", starts)

    assert shell.wait_started().address == "127.0.0.1:7"
    assert shell.running == Served("127.0.0.1:7")
    shell.stop()

    assert starts.has_ended.is_set()


def test_a_failed_start_is_retried_and_logged_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    starts = Starts([InvalidCheckpoint("no such folder: /away"), InvalidCheckpoint("still away")])
    with caplog.at_level(logging.ERROR):
        shell = Shell("decode-0", starts, delays_s=at_once)
        assert starts.has_served.wait(5)

    assert shell.wait_started().address == "127.0.0.1:7"
    shell.stop()
    lines = [
        (record.message, getattr(record, "error", ""), getattr(record, "retry_in_s", None))
        for record in caplog.records
    ]
    assert lines == [
        (
            "did not start; retrying",
            "InvalidCheckpoint: no such folder: /away",
            0.0,
        ),
        ("did not start; retrying", "InvalidCheckpoint: still away", 0.0),
    ]


def test_the_first_failed_start_raises_its_error_in_the_waiting_caller() -> None:
    shell = Shell("decode-0", Starts([InvalidCheckpoint("no such folder: /away")] * 99))

    with pytest.raises(InvalidCheckpoint, match="no such folder: /away"):
        shell.wait_started()
    assert shell.running is None
    shell.stop()


def test_the_delays_grow_and_are_bounded() -> None:
    delays = list(itertools.islice(retry_delays_s(), 200))

    assert delays[:3] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_RETRY_S


def test_an_unexpected_error_ends_the_process_so_that_it_is_restarted() -> None:
    left = threading.Event()
    reasons: list[BaseException] = []

    def leave(error: BaseException) -> None:
        reasons.append(error)
        left.set()

    starts = Starts([MemoryError("of the device")])
    shell = Shell("decode-0", starts, leave=leave, leave_after_s=0.0)

    assert left.wait(5)
    with pytest.raises(RuntimeError, match=r"MemoryError\('of the device'\)"):
        shell.wait_started()
    assert [type(reason) for reason in reasons] == [MemoryError]
    assert starts.num_started == 1


def test_calls_run_in_the_served_objects_loop() -> None:
    seen: list[tuple[str, str]] = []
    shell = Shell("router", Starts())

    async def work(served: Served) -> None:
        await asyncio.sleep(0)
        seen.append((served.address, threading.current_thread().name))

    shell.call(work)
    assert seen == [("127.0.0.1:7", "router")]

    async def fail(served: Served) -> None:
        raise InvalidCheckpoint("no")

    with pytest.raises(InvalidCheckpoint):
        shell.call(fail)
    shell.stop()


def test_a_stop_ends_the_retries_at_once() -> None:
    starts = Starts([InvalidCheckpoint("away")] * 99)
    shell = Shell("decode-0", starts, delays_s=lambda: itertools.repeat(3600.0))
    with pytest.raises(InvalidCheckpoint):
        shell.wait_started()

    stopping = threading.Thread(target=shell.stop)
    stopping.start()
    stopping.join(5)

    assert not stopping.is_alive()
    assert starts.num_started == 1


def test_a_failure_after_the_start_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    left: list[BaseException] = []
    has_left = threading.Event()

    def leave(error: BaseException) -> None:
        left.append(error)
        has_left.set()

    @contextlib.asynccontextmanager
    async def start() -> AsyncIterator[Served]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            yield Served("127.0.0.1:7")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("the engine is gone")

    shell = Shell("decode-0", start, leave=leave)
    shell.wait_started()

    assert has_left.wait(5)
    assert "the engine is gone" in repr(left)
    shell.stop()


def test_what_ends_by_itself_stops_in_order_and_the_process_ends() -> None:
    starts, may_end, has_exited = Starts(), threading.Event(), threading.Event()
    stopped_first: list[bool] = []

    def end_process() -> None:
        stopped_first.append(starts.has_ended.is_set())
        has_exited.set()

    async def ended(served: Served) -> None:
        assert served.address == "127.0.0.1:7"
        while not may_end.is_set():
            await asyncio.sleep(0.001)

    shell = Shell("decode-0", starts, ended=ended, end_process=end_process)
    assert starts.has_served.wait(5)
    assert not starts.has_ended.is_set()
    may_end.set()

    assert has_exited.wait(5)
    assert stopped_first == [True]
    shell.stop()


def test_a_stop_does_not_end_the_process() -> None:
    starts, exits = Starts(), list[None]()
    shell = Shell(
        "decode-0",
        starts,
        ended=lambda served: asyncio.sleep(3600),
        end_process=lambda: exits.append(None),
    )
    assert starts.has_served.wait(5)
    shell.stop()

    assert starts.has_ended.is_set()
    assert exits == []
