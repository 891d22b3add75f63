"""Whole clusters under random faults: no turn hangs, no unit leaks, and every token is right."""

from __future__ import annotations

import random

import pytest

from tests.virtual.campaign import campaign
from tests.virtual.faults import FAULTS


def test_random_faults_leave_nothing_and_change_no_token() -> None:
    seed = random.randrange(2**32)

    report = campaign(50, seed)

    assert report.wrongs == []
    assert report.faults.total() == 50
    # The turns are not all victims.
    assert report.ends["length"] > report.ends.total() / 4, str(report)


@pytest.mark.slow
def test_ten_thousand_random_faults_leave_nothing_and_change_no_token() -> None:
    report = campaign(10_000, random.randrange(2**32))

    assert report.wrongs == []
    assert set(report.faults) == {fault.__name__ for fault in FAULTS}
    assert report.ends["length"] > report.ends.total() / 4, str(report)
