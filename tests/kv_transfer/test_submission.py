"""Waiting for writes that were submitted to an engine. The real one is in test_mooncake.py."""

from __future__ import annotations

import time

import pytest

from kv_transfer.transport.submission import SubmittedWrites
from kv_transfer.writing.plan import Fragment
from segue.process.telemetry import Clock

LARGE = [Fragment(0x1000, 0x800000, 1 << 20)]
FRAGMENTS = [Fragment(0x1000, 0x8000, 64), Fragment(0x2000, 0x9000, 32)]


class Engine:
    """Each write takes `seconds`, then has `status`. `numbers`: what submitting returns."""

    def __init__(
        self,
        *,
        seconds: float = 0.0,
        status: int = 1,
        numbers: tuple[int, ...],
        clock: Clock = time.monotonic,
    ) -> None:
        self._clock = clock
        self._ends_at = clock() + seconds
        self._status = status
        self._numbers = iter(numbers)
        self.submitted: list[tuple[str, int, int, int]] = []
        self.asked: list[int] = []

    def transfer_submit_write(self, target: str, source: int, to: int, num_bytes: int) -> int:
        self.submitted.append((target, source, to, num_bytes))
        return next(self._numbers)

    def transfer_check_status(self, number: int) -> int:
        self.asked.append(number)
        return self._status if self._clock() >= self._ends_at else 0


def test_every_fragment_is_written_and_waited_for() -> None:
    engine = Engine(numbers=(7, 8))
    assert SubmittedWrites().write_all(engine, "peer", FRAGMENTS, timeout_s=5.0) == ""
    assert engine.submitted == [("peer", 0x1000, 0x8000, 64), ("peer", 0x2000, 0x9000, 32)]
    assert engine.asked == [7, 8]


def test_waiting_uses_no_core() -> None:
    engine = Engine(seconds=0.2, numbers=(7, 8))
    before = time.thread_time()
    assert SubmittedWrites().write_all(engine, "peer", FRAGMENTS, timeout_s=5.0) == ""
    assert time.thread_time() - before < 0.1
    # Asking in a loop would be a hundred thousand times.
    assert len(engine.asked) < 400


@pytest.mark.parametrize("refused", [0, (1 << 64) - 1])
def test_the_status_of_an_unsubmitted_write_is_not_polled(refused: int) -> None:
    engine = Engine(numbers=(7, refused))
    assert SubmittedWrites().write_all(engine, "peer", FRAGMENTS, timeout_s=5.0) == "not submitted"
    assert engine.asked == []


@pytest.mark.parametrize("status", [-1, -2])
def test_a_failed_write_is_reported(status: int) -> None:
    engine = Engine(status=status, numbers=(7, 8))
    assert (
        SubmittedWrites().write_all(engine, "peer", FRAGMENTS, timeout_s=5.0) == f"status {status}"
    )


def test_a_write_that_does_not_end_is_given_up() -> None:
    engine = Engine(seconds=60.0, numbers=(7, 8))
    assert (
        SubmittedWrites().write_all(engine, "peer", FRAGMENTS, timeout_s=0.05)
        == "not there after 0.05 s"
    )


def test_large_writes_are_polled_when_they_should_have_ended() -> None:
    now_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    writes = SubmittedWrites(clock=lambda: now_s, sleep=sleep)

    def num_questions(seconds: float) -> int:
        engine = Engine(seconds=seconds, numbers=(7,), clock=lambda: now_s)
        assert writes.write_all(engine, "peer", LARGE, timeout_s=5.0) == ""
        return len(engine.asked)

    # The first guess is too short; only the fastest of the last eight counts.
    slow = [num_questions(0.01) for _ in range(9)]
    assert slow[0] > 10 > slow[-1]
    # A faster one is soon found out.
    started_s, fast = now_s, [num_questions(0.001) for _ in range(20)]
    assert max(fast[:4]) == 1
    assert now_s - started_s < 20 * 0.0025
