"""Percentiles and speeds from timestamps."""

from __future__ import annotations

import pytest

from benchmarks.harness.samples import (
    Answered,
    Spread,
    percentile,
    steady_tokens_per_s,
    whole_tokens_per_s,
)


def answered(*token_at: float, asked_at: float = 0.0) -> Answered:
    return Answered(asked_at=asked_at, token_at=token_at, token_ids=(0,) * len(token_at))


def test_a_percentile_lies_between_its_neighbours() -> None:
    values = [40.0, 10.0, 30.0, 20.0]

    assert percentile(values, 0) == 10.0
    assert percentile(values, 50) == 25.0
    assert percentile(values, 90) == pytest.approx(37.0)
    assert percentile(values, 100) == 40.0


def test_a_single_value_is_every_percentile() -> None:
    assert Spread.of([7.0]) == Spread(p50=7.0, p90=7.0, num_samples=1)


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="at least one value for a percentile, got none"):
        percentile([], 50)


def test_the_first_token_does_not_count_as_decoded() -> None:
    answer = answered(3.0, 4.0, 5.0, asked_at=1.0)

    assert answer.first_token_s == 2.0
    assert answer.decode_tokens_per_s == 1.0


def test_steady_speed_counts_only_while_all_are_decoding() -> None:
    early = answered(1.0, 2.0, 3.0, 4.0)
    late = answered(3.0, 4.0, 5.0)

    # From 3 to 4 seconds: one token each.
    assert steady_tokens_per_s([early, late]) == 2.0


def test_turns_that_never_decode_together_have_no_steady_speed() -> None:
    assert steady_tokens_per_s([answered(1.0, 2.0), answered(3.0, 4.0)]) is None


def test_a_batch_in_lockstep_is_as_fast_as_its_steps_times_its_size() -> None:
    row = answered(2.0, 2.5, 3.0)

    assert steady_tokens_per_s([row, row, row]) == pytest.approx(3 * row.decode_tokens_per_s)


def test_overall_speed_includes_prompts_and_waiting() -> None:
    turns = [answered(2.0, 3.0), answered(3.0, 4.0, asked_at=1.0)]

    assert whole_tokens_per_s(turns) == 1.0
