"""Placement by cost is a pure function of what is known about the cluster."""

from __future__ import annotations

import random

import pytest

from router.placement.cluster import ClusterModel
from router.placement.coefficients import PRIOR, Coefficients, Observation
from router.placement.estimate import Mode
from router.placement.side import TurnSize
from segue.api.types import WorkerId
from segue.cost_line import prior_line
from tests.router.small_cluster import RULES, SLOW_LINK, cluster_of, decide, where, worker


def test_with_nothing_known_and_no_load_the_first_name_wins() -> None:
    assert where(decide(cluster_of())) == ("prefill-0", "decode-0", "compute")


def test_with_nothing_known_the_least_loaded_worker_wins() -> None:
    cluster = cluster_of(
        worker("prefill-0", queued=9_000),
        worker("prefill-1", queued=3_000),
        worker("prefill-2", queued=6_000),
        worker("decode-0", running=4),
        worker("decode-2", running=1),
    )

    assert where(decide(cluster)) == ("prefill-1", "decode-1", "compute")


def test_a_session_stays_where_its_prefix_is() -> None:
    decision = decide(cluster_of(), {"prefill-2": 49_000, "decode-1": 49_000})

    assert where(decision) == ("prefill-2", "decode-1", "compute")
    assert decision.chosen.plan.computed_tokens == 1_000
    assert decision.chosen.target.moved_tokens == 1_000


@pytest.mark.parametrize(("queued", "prefill"), [(20_000, "prefill-2"), (80_000, "prefill-0")])
def test_a_holder_is_left_if_its_queue_costs_more_than_computing_again(
    queued: int, prefill: str
) -> None:
    cluster = cluster_of(worker("prefill-2", queued=queued), coefficients=SLOW_LINK)

    assert where(decide(cluster, {"prefill-2": 49_000, "decode-1": 49_000}))[0] == prefill


@pytest.mark.parametrize(("coefficients", "mode"), [(PRIOR, "pull"), (SLOW_LINK, "compute")])
def test_a_prefix_is_pulled_exactly_if_that_is_cheaper(
    coefficients: Coefficients, mode: str
) -> None:
    decision = decide(cluster_of(coefficients=coefficients), {"decode-1": 49_000})

    assert where(decision) == ("prefill-0", "decode-1", mode)
    assert decision.chosen.source == ("decode-1" if mode == "pull" else None)


def test_a_short_suffix_is_computed_if_pulling_a_state_costs_more() -> None:
    # The 10 tokens that decode computed last, compared with the bytes of a state.
    decision = decide(cluster_of(), {"prefill-1": 49_000, "decode-1": 49_010})

    assert where(decision) == ("prefill-1", "decode-1", "compute")


def test_the_suffix_is_computed_on_decode_if_that_is_enabled_and_cheaper() -> None:
    rules = RULES._replace(local_prefill_max_tokens=1_000)
    held = {"decode-1": 49_900}

    assert where(decide(cluster_of(), held))[2] == "pull"
    assert where(decide(cluster_of(), held, rules=rules)) == ("decode-1", "decode-1", "local")
    busy = cluster_of(worker("decode-1", running=200))
    assert where(decide(busy, held, rules=rules))[2] == "pull"
    assert where(decide(cluster_of(), {"decode-1": 48_000}, rules=rules))[2] == "pull"


def test_a_state_beyond_the_prompt_cannot_be_resumed_but_its_pages_count() -> None:
    decision = decide(cluster_of(), {"prefill-1": 60_000, "decode-1": 50_000})

    assert where(decision) == ("prefill-1", "decode-1", "compute")
    assert decision.chosen.plan.computed_tokens == 50_000
    assert decision.chosen.target.moved_tokens == 0


def test_a_session_does_not_move_for_a_gain_within_the_estimates_error() -> None:
    # Computing takes 2 s at the worker with the prefix and 2.5 s elsewhere; a pull takes even
    # longer.
    link = PRIOR._replace(pooled=PRIOR.pooled._replace(link=prior_line(0.001, 3e-9)))
    held = {"prefill-2": 10_000, "decode-1": 10_000}

    slightly = decide(cluster_of(worker("prefill-2", queued=12_000), coefficients=link), held)
    greatly = decide(cluster_of(worker("prefill-2", queued=60_000), coefficients=link), held)

    assert slightly.ranked()[0].prefill == "prefill-0"
    assert where(slightly) == ("prefill-2", "decode-1", "compute")
    assert where(greatly) == ("prefill-0", "decode-1", "compute")


def test_computing_what_decode_holds_saves_no_time() -> None:
    decision = decide(cluster_of(coefficients=SLOW_LINK), {"decode-1": 49_000})

    (again,) = (c for c in decision.ranked()[:1] if c.mode is Mode.COMPUTE)
    assert again.plan.computed_tokens == 50_000
    assert again.hidden_s == pytest.approx(0.8 * 1_000 * 5e-5)


def after_tiny_turns(seed: int) -> ClusterModel:
    """A small model's first turns on CPUs."""
    chance = random.Random(seed)
    cluster = cluster_of()
    for tokens in (13, 21, 28, 16):
        noise = chance.lognormvariate(0.0, 0.2)
        cluster.learn(
            Observation(
                prefill=WorkerId("prefill-0"),
                decode=WorkerId("decode-0"),
                computed_tokens=tokens,
                shipped_tokens=tokens,
                shipped_bytes=220_000 + 1_000 * tokens,
                prefill_s=(0.012 + 3e-4 * tokens) * noise,
                transfer_s=0.006 / noise,
                exposed_transfer_s=0.003,
                placed_to_first_token_s=0.03,
            ),
        )
    return cluster


@pytest.mark.parametrize("seed", range(5))
def test_long_sessions_are_placed_sensibly_after_a_few_tiny_turns(seed: int) -> None:
    cluster = after_tiny_turns(seed)
    turn = TurnSize(6_000, 256)

    at_home = decide(cluster, {"prefill-2": 5_900, "decode-1": 5_900}, turn=turn)
    on_decode = decide(cluster, {"decode-1": 5_900}, turn=turn)

    assert where(at_home) == ("prefill-2", "decode-1", "compute")
    assert where(on_decode) == ("prefill-0", "decode-1", "pull")


@pytest.mark.parametrize(("prefill_tokens", "mode"), [(49_500, "local"), (49_600, "compute")])
def test_decode_does_not_compute_what_a_prefill_worker_has(prefill_tokens: int, mode: str) -> None:
    rules = RULES._replace(local_prefill_max_tokens=1_000)
    held = {"decode-1": 49_500, "prefill-1": prefill_tokens}

    assert where(decide(cluster_of(), held, rules=rules))[2] == mode


def test_the_prefix_of_an_avoided_prefill_worker_does_not_count() -> None:
    rules = RULES._replace(local_prefill_max_tokens=1_000)
    held = {"decode-1": 49_500, "prefill-1": 49_600}

    decision = decide(cluster_of(), held, rules=rules, avoid=("prefill-1",))

    assert where(decision) == ("decode-1", "decode-1", "local")


def test_candidates_are_one_holder_and_the_least_loaded_other_of_each_role() -> None:
    held = {"prefill-2": 49_000, "prefill-1": 48_000, "decode-2": 49_000, "decode-1": 48_000}

    decision = decide(cluster_of(), held)

    assert {c.prefill for c in decision.candidates} == {"prefill-2", "prefill-0"}
    assert {c.decode for c in decision.candidates} == {"decode-2", "decode-0"}


def test_the_explanation_is_ranked_and_lists_every_candidate() -> None:
    decision = decide(cluster_of(), {"prefill-2": 20_000, "decode-1": 49_000})

    ranked = decision.ranked()
    assert decision.chosen in ranked
    assert {c.mode for c in ranked} == {Mode.COMPUTE, Mode.PULL}
    assert [(c.excluded, c.total_s) for c in ranked] == sorted(
        (c.excluded, c.total_s) for c in ranked
    )
