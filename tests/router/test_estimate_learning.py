"""What is learned from turns: lines, shares and sizes, under noise and surprises."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.placement.coefficients import PRIOR, Coefficients, Observation, learn
from router.placement.decision import estimate_error
from segue.cost_line import Line, prior_line
from segue.types import WorkerId

PREFILL, DECODE = WorkerId("prefill-0"), WorkerId("decode-0")


def taught(line: Line, *, fixed: float, per_unit: float, noise: float, sizes: list[int]) -> Line:
    chance = random.Random(7)
    for _ in range(400):
        units = chance.choice(sizes)
        line = line.observed(units, (fixed + per_unit * units) * chance.lognormvariate(0.0, noise))
    return line


@pytest.mark.parametrize("scale", [0.001, 1.0, 1000.0])
def test_a_line_finds_the_truth_under_noise_whatever_its_prior(scale: float) -> None:
    prior = prior_line(0.01 * scale, 5e-5 * scale)

    line = taught(prior, fixed=0.04, per_unit=2e-5, noise=0.1, sizes=[100, 800, 5_000, 50_000])

    assert line.per_unit == pytest.approx(2e-5, rel=0.1)
    assert line.fixed == pytest.approx(0.04, rel=0.2)


def test_observations_of_one_size_scale_the_prior_and_keep_its_proportions() -> None:
    line = taught(prior_line(0.01, 1e-5), fixed=0.1, per_unit=0.0, noise=0.0, sizes=[1_000])

    assert line.at(1_000) == pytest.approx(0.1)
    assert line.fixed == pytest.approx(0.05)


def test_a_stall_is_not_believed_and_a_slower_worker_is() -> None:
    line = taught(prior_line(0.01, 5e-5), fixed=0.01, per_unit=5e-5, noise=0.05, sizes=[800, 9000])

    stalled = line.observed(800, 100.0)
    assert stalled.at(800) < 1.5 * line.at(800)

    for _ in range(60):
        line = line.observed(800, 0.15)
    assert line.at(800) == pytest.approx(0.15, rel=0.15)


def test_a_first_turn_that_compiles_kernels_is_soon_forgotten() -> None:
    line = prior_line(0.01, 5e-5).observed(800, 20.0)
    for _ in range(5):
        line = line.observed(800, 0.05)

    assert line.at(800) < 0.1


def test_a_measurement_of_nothing_teaches_nothing() -> None:
    line = prior_line(0.01, 5e-5)

    assert line.observed(800, 0.0) is line
    assert learn(PRIOR, Observation(prefill=PREFILL, decode=DECODE)) == PRIOR


@pytest.mark.parametrize("parts", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_a_prior_without_scale_is_refused(parts: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must be > 0"):
        prior_line(*parts)


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
def test_nothing_that_is_learned_ever_turns_negative(seen: list[Observation]) -> None:
    known = PRIOR
    for observation in seen:
        known = learn(known, observation)

    for speed in (known.pooled, *known.workers.values()):
        for line in (speed.compute, speed.link, speed.step, known.size):
            assert line.fixed >= 0.0
            assert line.per_unit >= 0.0
        assert 0.0 <= speed.hidden_share <= 1.0
    assert 0.0 <= known.overhead_s <= 1.0


def after_turns(count: int) -> Coefficients:
    """Turns of a cluster that is unlike the prior in everything."""
    chance = random.Random(3)
    known = PRIOR
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
        known = learn(known, observation)
    return known


def test_every_coefficient_is_learned_from_what_turns_report() -> None:
    known = after_turns(500)

    prefill, decode = known.of(PREFILL), known.of(DECODE)
    assert prefill.compute.at(10_000) == pytest.approx(10.1, rel=0.1)
    assert decode.link.at(1e8) == pytest.approx(0.102, rel=0.05)
    assert known.size.fixed == pytest.approx(4_000_000, rel=0.05)
    assert known.size.per_unit == pytest.approx(9_000, rel=0.05)
    assert decode.step.at(10) == pytest.approx(0.02, rel=0.2)
    assert known.overhead_s >= 0.0


def test_a_worker_that_was_never_seen_is_taken_to_be_like_the_others() -> None:
    known = after_turns(100)

    assert known.of(WorkerId("prefill-9")) == known.pooled
    assert known.pooled.compute.at(10_000) == pytest.approx(10.1, rel=0.15)


def test_learning_leaves_what_it_was_given_alone() -> None:
    after_turns(2)

    assert PRIOR.workers == {}


@pytest.mark.parametrize(
    ("estimated_s", "actual_s", "error"),
    [(1.0, 1.0, 0.0), (1.0, 2.0, 0.5), (2.0, 1.0, -0.5), (0.0, 3.0, 1.0), (0.0, 0.0, 0.0)],
)
def test_the_error_of_an_estimate_is_bounded_and_symmetric(
    estimated_s: float, actual_s: float, error: float
) -> None:
    assert estimate_error(estimated_s, actual_s) == error
