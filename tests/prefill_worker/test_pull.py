from __future__ import annotations

import pytest

from prefill_worker.pull import PullEstimate, Rates, estimate_pull
from segue.cache.layout import CacheField, CacheLayout, Unit

LAYOUT = CacheLayout(
    model_id="m",
    page_tokens=16,
    fields=(
        CacheField(group="kv", layer=0, unit=Unit.PAGE, dtype="float32", shape=(16, 256)),
        CacheField(group="recurrent", layer=1, unit=Unit.SLOT, dtype="float32", shape=(250_000,)),
    ),
)


def estimate(rates: Rates, held: int, matched: int = 0, resume: int = 0) -> PullEstimate:
    return estimate_pull(
        LAYOUT, rates, held_tokens=held, matched_tokens=matched, resume_tokens=resume
    )


@pytest.fixture
def rates() -> Rates:
    """A pass costs 50 ms and 0.2 ms per token, a transfer 1 ns per byte, a pull 10 ms on top."""
    rates = Rates()
    for num_tokens in (40, 500, 44, 2000, 50) * 6:
        rates.computed(num_tokens, 0.05 + 0.0002 * num_tokens)
        rates.moved(num_tokens * 1024, num_tokens * 1024e-9 + 1e-4)
        rates.pulled(num_tokens * 1024, num_tokens * 1024e-9 + 0.01)
    return rates


def test_the_fixed_cost_of_a_pass_does_not_favour_pulling(rates: Rates) -> None:
    """32 tokens after 44 others cost 6.4 ms more, not 32 times the average of those 44."""
    assert estimate(rates, 32).compute_s == pytest.approx(32 * 0.0002, rel=0.05)


def test_a_short_prefix_is_computed_and_a_long_one_pulled(rates: Rates) -> None:
    # The state alone takes 1 ms, the calls 10 ms.
    assert not estimate(rates, 32).pays
    assert estimate(rates, 1024).pays


def test_cached_pages_are_not_pulled_but_without_a_state_must_be_computed(
    rates: Rates,
) -> None:
    far = estimate(rates, 1024)
    near = estimate(rates, 1024, matched=1008)

    assert near.compute_s == far.compute_s
    assert far.move_s - near.move_s == pytest.approx(63 * LAYOUT.page_bytes * 1e-9, rel=0.25)


def test_a_slow_link_is_learned_from_pulls(rates: Rates) -> None:
    for _ in range(30):
        rates.moved(1 << 20, 0.5)
        rates.pulled(1 << 20, 0.5)

    assert not estimate(rates, 1024).pays


def test_a_slow_link_is_learned_from_handoffs_before_the_first_pull() -> None:
    rates = Rates()
    for num_tokens in (40, 500, 44, 2000, 50) * 6:
        rates.computed(num_tokens, 0.05 + 0.0002 * num_tokens)
        rates.moved(1 << 20, 0.5)

    assert not estimate(rates, 1024).pays


def test_pull_measurements_override_slower_handoffs(rates: Rates) -> None:
    """A handoff during compute waits for the cores; a pull has them."""
    before = estimate(rates, 1024).move_s
    for _ in range(30):
        rates.moved(1 << 20, 0.02)

    assert estimate(rates, 1024).move_s == before


def test_one_stalled_pull_does_not_end_pulling_for_good(rates: Rates) -> None:
    rates = Rates(compute=rates.compute, move=rates.move)
    rates.pulled(1 << 20, 10.0)

    assert estimate(rates, 1024).pays
