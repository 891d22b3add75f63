from __future__ import annotations

import random

import pytest

from segue.cost_line import Line, prior_line


def taught(line: Line, *, fixed: float, per_unit: float, noise: float, sizes: list[int]) -> Line:
    chance = random.Random(7)
    for _ in range(400):
        units = chance.choice(sizes)
        line = line.observed(units, (fixed + per_unit * units) * chance.lognormvariate(0.0, noise))
    return line


@pytest.mark.parametrize("scale", [0.001, 1.0, 1000.0])
def test_a_line_converges_under_noise_from_any_prior(scale: float) -> None:
    prior = prior_line(0.01 * scale, 5e-5 * scale)

    line = taught(prior, fixed=0.04, per_unit=2e-5, noise=0.1, sizes=[100, 800, 5_000, 50_000])

    assert line.per_unit == pytest.approx(2e-5, rel=0.1)
    assert line.fixed == pytest.approx(0.04, rel=0.2)


def test_observations_of_one_size_scale_the_prior_and_keep_its_proportions() -> None:
    line = taught(prior_line(0.01, 1e-5), fixed=0.1, per_unit=0.0, noise=0.0, sizes=[1_000])

    assert line.at(1_000) == pytest.approx(0.1)
    assert line.fixed == pytest.approx(0.05)


def test_a_stall_is_ignored_and_a_slower_worker_is_not() -> None:
    line = taught(prior_line(0.01, 5e-5), fixed=0.01, per_unit=5e-5, noise=0.05, sizes=[800, 9000])

    stalled = line.observed(800, 100.0)
    assert stalled.at(800) < 1.5 * line.at(800)

    for _ in range(60):
        line = line.observed(800, 0.15)
    assert line.at(800) == pytest.approx(0.15, rel=0.15)


def test_a_much_slower_worker_is_believed_before_long() -> None:
    line = taught(prior_line(0.01, 5e-5), fixed=0.01, per_unit=5e-5, noise=0.05, sizes=[800, 9000])

    for _ in range(50):
        line = line.observed(800, 5.0)

    assert line.at(800) == pytest.approx(5.0, rel=0.3)


def test_a_first_turn_that_compiles_kernels_is_soon_forgotten() -> None:
    line = prior_line(0.01, 5e-5).observed(800, 20.0)
    for _ in range(5):
        line = line.observed(800, 0.05)

    assert line.at(800) < 0.1


def test_a_measurement_of_zero_units_teaches_nothing() -> None:
    line = prior_line(0.01, 5e-5)

    assert line.observed(800, 0.0) is line


@pytest.mark.parametrize("parts", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_a_prior_without_scale_is_refused(parts: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must be > 0"):
        prior_line(*parts)


def test_a_few_short_observations_do_not_make_long_ones_free() -> None:
    chance = random.Random(5)
    expected = []
    for _ in range(200):
        line = prior_line(0.01, 5e-5)
        for units in (13, 21, 28):
            line = line.observed(units, (0.012 + 3e-4 * units) * chance.lognormvariate(0.0, 0.2))
        expected.append(line.at(6_000))

    # The true value is 1.8 s.
    assert min(expected) > 0.1
