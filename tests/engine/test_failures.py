"""A sequence's error ends the sequence, a pass's error its turns, two in a row the process."""

from __future__ import annotations

import pytest

from segue.api.errors import SegueError, Unavailable
from segue.parallel.rank import RanksLost
from segue.worker.engine_thread import Failures

BROKEN = RuntimeError("out of memory")


def test_the_turns_of_a_failed_pass_may_be_retried_elsewhere() -> None:
    error = Failures().of_pass(BROKEN)

    assert isinstance(error, Unavailable)
    assert error.retry_is_safe
    assert "RuntimeError: out of memory" in str(error)


def test_two_failed_passes_in_a_row_mean_a_broken_engine() -> None:
    failures = Failures()
    failures.of_pass(BROKEN)

    with pytest.raises(RuntimeError, match="out of memory"):
        failures.of_pass(BROKEN)


def test_a_successful_pass_in_between_resets_the_count() -> None:
    failures = Failures()
    for _ in range(5):
        failures.of_pass(BROKEN)
        failures.passed()


def test_any_number_of_single_sequences_may_fail() -> None:
    failures = Failures()
    for _ in range(5):
        error = failures.of_sequence(KeyError("x"))
        assert type(error) is SegueError
        assert not error.retry_is_safe


def test_a_worker_that_lost_its_other_ranks_exits_at_once() -> None:
    with pytest.raises(RanksLost):
        Failures().of_pass(RanksLost("rank 1 has ended"))
