"""Placement by cost is a pure function: what is known of a cluster, and where a turn goes."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.placement.cluster import Cluster
from router.placement.coefficients import PRIOR, Coefficients, Observation
from router.placement.decision import Decision
from router.placement.estimate import Mode
from router.placement.side import Exclusion, Held, Rules, TurnSize
from router.policy import place
from segue.cluster_status import UnitCounts, WorkerHealth, WorkerLoad, WorkerStatus
from segue.cost_line import prior_line
from segue.errors import Unavailable
from segue.types import Epoch, Role, WorkerId

NAMES = ["prefill-0", "prefill-1", "prefill-2", "decode-0", "decode-1", "decode-2"]
SLOW_LINK = PRIOR._replace(pooled=PRIOR.pooled._replace(link=prior_line(0.001, 1e-7)))
TURN = TurnSize(prompt_tokens=50_000, max_tokens=512)
RULES = Rules(page_tokens=64)


def worker(
    name: str,
    *,
    queued: int = 0,
    running: int = 0,
    free: int = 10_000,
    health: WorkerHealth = WorkerHealth.READY,
    epoch: int = 1,
) -> WorkerStatus:
    return WorkerStatus(
        worker_id=WorkerId(name),
        role=Role(name.split("-")[0]),
        epoch=Epoch(epoch),
        address=f"127.0.0.1:{name}",
        health=health,
        load=WorkerLoad(
            running_turns=running,
            waiting_tokens=queued,
            pages=UnitCounts(total=10_000, free=free),
        ),
    )


def cluster_of(*changed: WorkerStatus, coefficients: Coefficients = PRIOR) -> Cluster:
    """Three idle workers of each role, some of them changed."""
    cluster = Cluster(coefficients)
    for status in (*map(worker, NAMES), *changed):
        cluster.heard(status)
    return cluster


def known(held: Mapping[str, int]) -> dict[WorkerId, Held]:
    return {WorkerId(name): Held(tokens, tokens) for name, tokens in held.items()}


def decide(
    cluster: Cluster,
    held: Mapping[str, int] | None = None,
    *,
    turn: TurnSize = TURN,
    rules: Rules = RULES,
    avoid: tuple[str, ...] = (),
) -> Decision:
    return place(turn, cluster, known(held or {}), rules, avoid=[WorkerId(a) for a in avoid])


def where(decision: Decision) -> tuple[str, str, str]:
    return decision.chosen.prefill, decision.chosen.decode, decision.chosen.mode


def test_nothing_known_and_nothing_running_fills_in_order_of_names() -> None:
    assert where(decide(cluster_of())) == ("prefill-0", "decode-0", "compute")


def test_nothing_known_takes_the_least_loaded() -> None:
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
def test_a_holder_is_left_when_its_queue_costs_more_than_computing_again(
    queued: int, prefill: str
) -> None:
    cluster = cluster_of(worker("prefill-2", queued=queued), coefficients=SLOW_LINK)

    assert where(decide(cluster, {"prefill-2": 49_000, "decode-1": 49_000}))[0] == prefill


@pytest.mark.parametrize(("coefficients", "mode"), [(PRIOR, "pull"), (SLOW_LINK, "compute")])
def test_a_prefix_is_pulled_exactly_where_that_is_cheaper(
    coefficients: Coefficients, mode: str
) -> None:
    decision = decide(cluster_of(coefficients=coefficients), {"decode-1": 49_000})

    assert where(decision) == ("prefill-0", "decode-1", mode)
    assert decision.chosen.source == ("decode-1" if mode == "pull" else None)


def test_a_short_tail_is_computed_when_pulling_a_state_costs_more() -> None:
    # What decode computed last, 10 tokens, against the bytes of a state.
    decision = decide(cluster_of(), {"prefill-1": 49_000, "decode-1": 49_010})

    assert where(decision) == ("prefill-1", "decode-1", "compute")


def test_the_delta_is_computed_on_decode_where_that_is_switched_on_and_cheaper() -> None:
    rules = RULES._replace(local_prefill_max_tokens=1_000)
    held = {"decode-1": 49_900}

    assert where(decide(cluster_of(), held))[2] == "pull"
    assert where(decide(cluster_of(), held, rules=rules)) == ("decode-1", "decode-1", "local")
    busy = cluster_of(worker("decode-1", running=200))
    assert where(decide(busy, held, rules=rules))[2] == "pull"
    assert where(decide(cluster_of(), {"decode-1": 48_000}, rules=rules))[2] == "pull"


def test_a_state_behind_the_prompt_cannot_be_gone_on_from_but_its_pages_stay() -> None:
    decision = decide(cluster_of(), {"prefill-1": 60_000, "decode-1": 50_000})

    assert where(decision) == ("prefill-1", "decode-1", "compute")
    assert decision.chosen.plan.computed_tokens == 50_000
    assert decision.chosen.target.moved_tokens == 0


def test_a_session_does_not_move_for_a_gain_within_the_estimates_error() -> None:
    # Computing takes 2 s where the prefix is and 2.5 s elsewhere; pulling it takes longer still.
    link = PRIOR._replace(pooled=PRIOR.pooled._replace(link=prior_line(0.001, 3e-9)))
    held = {"prefill-2": 10_000, "decode-1": 10_000}

    slightly = decide(cluster_of(worker("prefill-2", queued=12_000), coefficients=link), held)
    greatly = decide(cluster_of(worker("prefill-2", queued=60_000), coefficients=link), held)

    assert slightly.ranked()[0].prefill == "prefill-0"
    assert where(slightly) == ("prefill-2", "decode-1", "compute")
    assert where(greatly) == ("prefill-0", "decode-1", "compute")


def test_computing_what_decode_holds_hides_nothing() -> None:
    decision = decide(cluster_of(coefficients=SLOW_LINK), {"decode-1": 49_000})

    (again,) = (c for c in decision.ranked()[:1] if c.mode is Mode.COMPUTE)
    assert again.plan.computed_tokens == 50_000
    assert again.hidden_s == pytest.approx(0.8 * 1_000 * 5e-5)


def test_a_decode_worker_without_memory_for_prompt_and_answer_is_excluded() -> None:
    cluster = cluster_of(worker("decode-0", free=789), worker("decode-1", free=790))

    assert decide(cluster, {"decode-0": 49_000}).chosen.decode == "decode-2"
    small = cluster_of(*(worker(f"decode-{n}", free=789) for n in (0, 2)))
    small.heard(worker("decode-1", free=790))
    assert decide(small).chosen.decode == "decode-1"


def test_what_was_placed_since_the_last_heartbeat_takes_memory() -> None:
    cluster = cluster_of(worker("decode-0", free=800), worker("decode-1", free=9_000, running=1))
    cluster.heard(worker("decode-2", free=9_000, running=1))

    seat = cluster.take(decide(cluster))
    assert seat.decode.worker_id == "decode-0"
    cluster.heard(worker("decode-1", running=1))
    assert decide(cluster).chosen.decode != "decode-0"
    cluster.leave(seat)
    assert decide(cluster).chosen.decode == "decode-0"


def test_a_decode_worker_at_its_users_speed_floor_is_excluded() -> None:
    rules = RULES._replace(min_tokens_per_s=40.0)  # A step of 25 ms: 25 turns.

    kept = decide(cluster_of(worker("decode-1", running=24)), {"decode-1": 49_000}, rules=rules)
    left = decide(cluster_of(worker("decode-1", running=25)), {"decode-1": 49_000}, rules=rules)

    assert kept.chosen.decode == "decode-1"
    assert left.chosen.decode == "decode-0"
    assert {c.excluded for c in left.candidates if c.decode == "decode-1"} == {Exclusion.SPEED}


def test_when_all_are_at_the_floor_the_turn_still_goes_somewhere() -> None:
    full = [worker(f"decode-{n}", running=100 + n) for n in range(3)]

    decision = decide(cluster_of(*full), rules=RULES._replace(min_tokens_per_s=40.0))

    assert where(decision) == ("prefill-0", "decode-0", "compute")
    assert decision.chosen.excluded is Exclusion.SPEED


def after_tiny_turns(seed: int) -> Cluster:
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
def test_long_sessions_are_placed_sensibly_after_a_first_few_tiny_turns(seed: int) -> None:
    cluster = after_tiny_turns(seed)
    turn = TurnSize(6_000, 256)

    at_home = decide(cluster, {"prefill-2": 5_900, "decode-1": 5_900}, turn=turn)
    on_decode = decide(cluster, {"decode-1": 5_900}, turn=turn)

    assert where(at_home) == ("prefill-2", "decode-1", "compute")
    assert where(on_decode) == ("prefill-0", "decode-1", "pull")


def test_one_holder_and_the_least_loaded_other_of_each_role_are_weighed() -> None:
    held = {"prefill-2": 49_000, "prefill-1": 48_000, "decode-2": 49_000, "decode-1": 48_000}

    decision = decide(cluster_of(), held)

    assert {c.prefill for c in decision.candidates} == {"prefill-2", "prefill-0"}
    assert {c.decode for c in decision.candidates} == {"decode-2", "decode-0"}


def test_where_the_first_holder_may_not_take_the_turn_the_next_one_is_weighed() -> None:
    cluster = cluster_of(worker("decode-2", free=1))

    decision = decide(cluster, {"decode-2": 49_000, "decode-1": 48_000})

    assert {c.decode for c in decision.candidates} == {"decode-2", "decode-1", "decode-0"}
    assert decision.chosen.decode == "decode-1"


@pytest.mark.parametrize("health", [WorkerHealth.LOST, WorkerHealth.DRAINING])
def test_a_worker_that_is_not_ready_takes_nothing_but_is_explained(health: WorkerHealth) -> None:
    cluster = cluster_of(worker("decode-1", health=health))

    decision = decide(cluster, {"decode-1": 49_000})

    assert decision.chosen.decode == "decode-0"
    assert {c.excluded for c in decision.candidates if c.decode == "decode-1"} == {
        Exclusion.NOT_READY
    }
    # A draining worker may still give its prefix away; a lost one has none.
    assert decision.chosen.mode == ("pull" if health is WorkerHealth.DRAINING else "compute")


def test_a_worker_that_just_failed_is_avoided_as_target_and_as_source() -> None:
    decision = decide(cluster_of(), {"decode-1": 49_000}, avoid=("decode-1", "prefill-0"))

    assert where(decision) == ("prefill-1", "decode-0", "compute")


def test_a_worker_that_just_failed_is_used_again_when_there_is_no_other() -> None:
    lost = [worker(f"decode-{n}", health=WorkerHealth.LOST) for n in (1, 2)]

    assert decide(cluster_of(*lost), avoid=("decode-0",)).chosen.decode == "decode-0"


@pytest.mark.parametrize("role", Role)
def test_a_cluster_without_a_ready_worker_of_a_role_is_unavailable(role: Role) -> None:
    lost = [worker(f"{role}-{n}", health=WorkerHealth.LOST) for n in range(3)]

    with pytest.raises(Unavailable, match=f"no {role} worker is ready"):
        decide(cluster_of(*lost))


def test_workers_that_left_the_table_are_ignored_in_what_is_known() -> None:
    assert where(decide(cluster_of(), {"decode-9": 49_000})) == ("prefill-0", "decode-0", "compute")


def test_the_explanation_is_ranked_and_holds_every_way_that_was_weighed() -> None:
    decision = decide(cluster_of(), {"prefill-2": 20_000, "decode-1": 49_000})

    ranked = decision.ranked()
    assert decision.chosen in ranked
    assert {c.mode for c in ranked} == {Mode.COMPUTE, Mode.PULL}
    assert [(c.excluded, c.total_s) for c in ranked] == sorted(
        (c.excluded, c.total_s) for c in ranked
    )


def test_a_seat_counts_until_it_is_left_and_only_once() -> None:
    cluster = cluster_of()
    seat = cluster.take(decide(cluster))
    assert where(decide(cluster))[:2] == ("prefill-1", "decode-1")

    cluster.prefilled(seat)
    assert where(decide(cluster))[:2] == ("prefill-0", "decode-1")
    cluster.leave(seat)
    cluster.leave(seat)

    assert where(decide(cluster))[:2] == ("prefill-0", "decode-0")


def test_a_report_that_holds_our_own_turns_does_not_count_them_twice() -> None:
    cluster = cluster_of()
    cluster.take(decide(cluster))
    cluster.heard(worker("prefill-0", queued=50_000, running=1))
    cluster.heard(worker("decode-0", running=3))

    node = cluster.nodes[WorkerId("prefill-0")]
    assert (node.own_tokens, node.other_tokens) == (50_000, 0)
    assert cluster.nodes[WorkerId("decode-0")].running_turns == 3


def test_a_workers_later_life_owes_nothing_to_the_earlier_ones_turns() -> None:
    cluster = cluster_of()
    seat = cluster.take(decide(cluster))
    cluster.heard(worker("prefill-0", epoch=2))
    again = cluster.take(decide(cluster))

    cluster.leave(seat)

    assert again.prefill.worker_id == "prefill-0"
    assert cluster.nodes[WorkerId("prefill-0")].own_tokens == 50_000


tokens = st.integers(0, 60_000)
# A state cannot be shortened: one behind the prompt's last token is of no use.
prefixes = st.integers(0, TURN.prompt_tokens - 1)
statuses = st.builds(
    worker,
    st.sampled_from(NAMES),
    queued=tokens,
    running=st.integers(0, 60),
    free=st.integers(0, 10_000),
    health=st.sampled_from(WorkerHealth),
)
situations = st.fixed_dictionaries(
    {
        "changed": st.lists(statuses, max_size=4, unique_by=lambda s: s.worker_id).filter(
            lambda changed: all(
                sum(s.role is role and s.health is not WorkerHealth.READY for s in changed) < 3
                for role in Role
            )
        ),
        "held": st.dictionaries(st.sampled_from(NAMES), prefixes, max_size=4),
        "rules": st.builds(
            Rules,
            page_tokens=st.just(64),
            min_tokens_per_s=st.sampled_from([0.0, 40.0]),
            local_prefill_max_tokens=st.sampled_from([0, 5_000]),
            num_weighed=st.integers(2, 6),
        ),
        "coefficients": st.sampled_from([PRIOR, SLOW_LINK]),
    }
)


@settings(max_examples=50)
@given(situations)
def test_the_chosen_way_is_feasible_and_about_the_cheapest_and_its_parts_sum_up(
    situation: dict[str, object],
) -> None:
    cluster = cluster_of(*situation["changed"], coefficients=situation["coefficients"])  # type: ignore[misc,arg-type]  # drawn above

    decision = decide(cluster, situation["held"], rules=situation["rules"])  # type: ignore[arg-type]  # drawn above

    least = min(c.excluded for c in decision.candidates)
    cheapest = min(c.total_s for c in decision.candidates if c.excluded == least)
    assert decision.chosen.excluded == least < Exclusion.NOT_READY
    assert decision.chosen.total_s <= cheapest * 1.1
    same_pair = [
        c.total_s
        for c in decision.candidates
        if (c.prefill, c.decode) == (decision.chosen.prefill, decision.chosen.decode)
    ]
    assert decision.chosen.total_s == min(same_pair)
    assert decision.placement.decode.health is WorkerHealth.READY
    for candidate in decision.candidates:
        assert sum(candidate.parts().values()) == pytest.approx(candidate.total_s)


@settings(max_examples=50)
@given(situations, st.sampled_from(NAMES), prefixes)
def test_more_residency_never_raises_the_estimate(
    situation: dict[str, object], name: str, more: int
) -> None:
    # As many weighed as there are: who holds what does not change who is looked at.
    cluster = cluster_of(coefficients=situation["coefficients"])  # type: ignore[arg-type]  # drawn above
    rules = situation["rules"]._replace(num_weighed=6)  # type: ignore[attr-defined]  # drawn above
    held: dict[str, int] = situation["held"]  # type: ignore[assignment]  # drawn above

    before = decide(cluster, held, rules=rules)
    after = decide(cluster, {**held, name: max(held.get(name, 0), more)}, rules=rules)

    assert after.ranked()[0].total_s <= before.ranked()[0].total_s * (1 + 1e-9)
