"""Waiting for writes that were submitted to an engine. The real one is in test_mooncake.py."""

from __future__ import annotations

import time

import pytest

from kv_transfer.transport.submission import write_all
from kv_transfer.writing.plan import Fragment

FRAGMENTS = [Fragment(0x1000, 0x8000, 64), Fragment(0x2000, 0x9000, 32)]


class Engine:
    """Each write takes `seconds`, then has `status`. `numbers`: what submitting returns."""

    def __init__(self, *, seconds: float = 0.0, status: int = 1, numbers: tuple[int, ...]) -> None:
        self._ends_at = time.monotonic() + seconds
        self._status = status
        self._numbers = iter(numbers)
        self.submitted: list[tuple[str, int, int, int]] = []
        self.asked: list[int] = []

    def transfer_submit_write(self, target: str, source: int, to: int, num_bytes: int) -> int:
        self.submitted.append((target, source, to, num_bytes))
        return next(self._numbers)

    def transfer_check_status(self, number: int) -> int:
        self.asked.append(number)
        return self._status if time.monotonic() >= self._ends_at else 0


def test_every_fragment_is_written_and_waited_for() -> None:
    engine = Engine(numbers=(7, 8))
    assert write_all(engine, "peer", FRAGMENTS, timeout_s=5.0) == ""
    assert engine.submitted == [("peer", 0x1000, 0x8000, 64), ("peer", 0x2000, 0x9000, 32)]
    assert engine.asked == [7, 8]


def test_waiting_takes_no_core() -> None:
    engine = Engine(seconds=0.2, numbers=(7, 8))
    before = time.thread_time()
    assert write_all(engine, "peer", FRAGMENTS, timeout_s=5.0) == ""
    assert time.thread_time() - before < 0.1
    # Asking in a loop would be a hundred thousand times.
    assert len(engine.asked) < 400


@pytest.mark.parametrize("refused", [0, (1 << 64) - 1])
def test_the_status_of_what_was_not_submitted_is_not_asked_for(refused: int) -> None:
    engine = Engine(numbers=(7, refused))
    assert write_all(engine, "peer", FRAGMENTS, timeout_s=5.0) == "not submitted"
    assert engine.asked == []


@pytest.mark.parametrize("status", [-1, -2])
def test_a_failed_write_is_reported(status: int) -> None:
    engine = Engine(status=status, numbers=(7, 8))
    assert write_all(engine, "peer", FRAGMENTS, timeout_s=5.0) == f"status {status}"


def test_a_write_that_does_not_end_is_given_up() -> None:
    engine = Engine(seconds=60.0, numbers=(7, 8))
    assert write_all(engine, "peer", FRAGMENTS, timeout_s=0.05) == "not there after 0.05 s"
