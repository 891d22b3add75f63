"""What the estimates learn from turns: coefficients, shares and sizes, with noise and outliers."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.placement.cluster import ClusterModel
from router.placement.coefficients import PRIOR, Observation, learn
from router.placement.policy import estimate_error
from segue.api.types import WorkerId

PREFILL, DECODE = WorkerId("prefill-0"), WorkerId("decode-0")


def test_a_turn_without_measurements_changes_no_estimate() -> None:
    known = ClusterModel()
    known.learn(Observation(prefill=PREFILL, decode=DECODE))

    assert known.coefficients == PRIOR
    assert known.speed_of(PREFILL) == known.speed_of(DECODE) == PRIOR.pooled


measured = st.floats(0.0, 1e6, allow_nan=False)
observations = st.builds(
    Observation,
    prefill=st.just(PREFILL),
    decode=st.just(DECODE),
    computed_tokens=st.integers(0, 100_000),
    shipped_tokens=st.integers(0, 100_000),
    shipped_bytes=st.integers(0, 2**40),
    queue_s=measured,
    prefill_s=measured,
    transfer_s=measured,
    exposed_transfer_s=measured,
    pulled_from=st.sampled_from([None, DECODE]),
    pulled_bytes=st.integers(0, 2**40),
    pull_s=measured,
    placed_to_first_token_s=measured,
    completion_tokens=st.integers(0, 1_000),
    decode_s=measured,
    running_turns=st.integers(1, 100),
)


@settings(max_examples=30)
@given(st.lists(observations, max_size=8))
def test_no_learned_value_becomes_negative(seen: list[Observation]) -> None:
    known = ClusterModel()
    for observation in seen:
        known.learn(observation)

    coefficients = known.coefficients
    for speed in (coefficients.pooled, *known.own_speeds.values()):
        for line in (speed.compute, speed.link, speed.step, coefficients.size):
            assert line.fixed >= 0.0
            assert line.per_unit >= 0.0
        assert 0.0 <= speed.hidden_share <= 1.0
    assert 0.0 <= coefficients.overhead_s <= 1.0


def after_turns(count: int) -> ClusterModel:
    """Turns of a cluster that differs from the prior in every coefficient."""
    chance = random.Random(3)
    known = ClusterModel()
    for _ in range(count):
        computed, shipped = chance.randrange(100, 40_000), chance.randrange(100, 40_000)
        num_bytes = 4_000_000 + 9_000 * shipped
        prefill_s = 0.1 + 1e-3 * computed
        transfer_s = 0.002 + num_bytes / 1e9
        exposed_s = transfer_s - 0.5 * min(transfer_s, prefill_s)
        observation = Observation(
            prefill=PREFILL,
            decode=DECODE,
            computed_tokens=computed,
            shipped_tokens=shipped,
            shipped_bytes=num_bytes,
            queue_s=0.2,
            prefill_s=prefill_s * chance.lognormvariate(0.0, 0.1),
            transfer_s=transfer_s,
            exposed_transfer_s=exposed_s,
            placed_to_first_token_s=0.2 + prefill_s + exposed_s + 0.03,
            completion_tokens=101,
            decode_s=100 * (0.01 + 1e-3 * chance.randrange(1, 20)),
            running_turns=10,
        )
        known.learn(observation)
    return known


def test_every_coefficient_is_learned_from_turn_reports() -> None:
    known = after_turns(500)

    prefill, decode = known.speed_of(PREFILL), known.speed_of(DECODE)
    assert prefill.compute.at(10_000) == pytest.approx(10.1, rel=0.1)
    assert decode.link.at(1e8) == pytest.approx(0.102, rel=0.05)
    assert known.coefficients.size.fixed == pytest.approx(4_000_000, rel=0.05)
    assert known.coefficients.size.per_unit == pytest.approx(9_000, rel=0.05)
    assert decode.step.at(10) == pytest.approx(0.02, rel=0.2)
    assert known.coefficients.overhead_s >= 0.0


def test_an_unknown_worker_is_assumed_to_be_average() -> None:
    known = after_turns(100)

    assert known.speed_of(WorkerId("prefill-9")) == known.coefficients.pooled
    assert known.coefficients.pooled.compute.at(10_000) == pytest.approx(10.1, rel=0.15)


def test_a_worker_counts_as_average_until_it_was_observed_often_enough() -> None:
    newcomer = WorkerId("prefill-1")
    slow = Observation(prefill=newcomer, decode=DECODE, computed_tokens=10_000, prefill_s=40.0)
    known = after_turns(100)

    seen = []
    for _ in range(8):
        known.learn(slow)
        seen.append(known.speed_of(newcomer).compute.at(10_000))

    assert seen[0] < 15.0
    assert seen[6] < seen[7] == pytest.approx(40.0)
    assert known.speed_of(newcomer).link == known.coefficients.pooled.link


def test_learning_changes_only_the_workers_that_took_part() -> None:
    known, stranger = after_turns(2), WorkerId("prefill-1")
    speeds = dict(known.own_speeds)

    seen = Observation(prefill=stranger, decode=DECODE, computed_tokens=100, prefill_s=1.0)
    _, learned = learn(known.coefficients, speeds, seen)

    assert learned.keys() == {stranger, DECODE}
    assert speeds == known.own_speeds


@pytest.mark.parametrize(
    ("estimated_s", "actual_s", "error"),
    [(1.0, 1.0, 0.0), (1.0, 2.0, 0.5), (2.0, 1.0, -0.5), (0.0, 3.0, 1.0), (0.0, 0.0, 0.0)],
)
def test_the_error_of_an_estimate_is_bounded_and_symmetric(
    estimated_s: float, actual_s: float, error: float
) -> None:
    assert estimate_error(estimated_s, actual_s) == error
