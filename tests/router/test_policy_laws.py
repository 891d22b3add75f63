"""Properties of every placement, for any cluster."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.placement.coefficients import PRIOR
from router.placement.estimate import Mode
from router.placement.side import Exclusion, Rules
from segue.api.cluster.status import WorkerHealth
from segue.api.types import Role
from tests.router.small_cluster import NAMES, SLOW_LINK, TURN, cluster_of, decide, worker

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
            # Otherwise any number may be drawn for it, including infinity.
            interference_share=st.sampled_from([0.0, 0.1, 1.0]),
            num_weighed=st.integers(2, 6),
        ),
        "coefficients": st.sampled_from([PRIOR, SLOW_LINK]),
    }
)


@settings(max_examples=50)
@given(situations)
def test_the_chosen_candidate_is_feasible_and_about_the_cheapest_and_its_parts_sum_up(
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
    # All workers are candidates, so who holds a prefix does not change the candidates.
    cluster = cluster_of(coefficients=situation["coefficients"])  # type: ignore[arg-type]  # drawn above
    rules = situation["rules"]._replace(num_weighed=6)  # type: ignore[attr-defined]  # drawn above
    held: dict[str, int] = situation["held"]  # type: ignore[assignment]  # drawn above

    before = decide(cluster, held, rules=rules)
    after = decide(cluster, {**held, name: max(held.get(name, 0), more)}, rules=rules)

    best = before.ranked()[0]
    if name.startswith(Role.PREFILL):
        # Decode may not compute a suffix itself if a prefill worker holds more, even if that is
        # a little faster: the session's states stay together.
        best = next(c for c in before.ranked() if c.mode is not Mode.LOCAL)
    assert after.ranked()[0].total_s <= best.total_s * (1 + 1e-9)
