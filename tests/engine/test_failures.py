"""One sequence's error ends that sequence, a pass's error its turns, two in a row the process."""

from __future__ import annotations

import pytest

from segue.api.errors import SegueError, Unavailable
from segue.parallel.rank import RanksLost
from segue.worker.engine_thread import Failures

BROKEN = RuntimeError("out of memory")


def test_the_turns_of_a_pass_that_failed_may_be_run_elsewhere() -> None:
    told = Failures().of_pass(BROKEN)

    assert isinstance(told, Unavailable)
    assert told.retry_is_safe
    assert "RuntimeError: out of memory" in str(told)


def test_two_passes_in_a_row_that_fail_are_a_broken_engine() -> None:
    failures = Failures()
    failures.of_pass(BROKEN)

    with pytest.raises(RuntimeError, match="out of memory"):
        failures.of_pass(BROKEN)


def test_a_pass_that_goes_well_in_between_forgives() -> None:
    failures = Failures()
    for _ in range(5):
        failures.of_pass(BROKEN)
        failures.passed()


def test_any_number_of_sequences_may_fail_by_themselves() -> None:
    failures = Failures()
    for _ in range(5):
        told = failures.of_sequence(KeyError("x"))
        assert type(told) is SegueError
        assert not told.retry_is_safe


def test_a_worker_that_has_lost_its_other_ranks_ends_at_once() -> None:
    with pytest.raises(RanksLost):
        Failures().of_pass(RanksLost("rank 1 has ended"))
