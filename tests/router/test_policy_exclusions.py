"""Workers that may not take a turn, and the fallback if all are excluded."""

from __future__ import annotations

import pytest

from router.placement.side import Exclusion
from segue.api.cluster.status import WorkerHealth
from segue.api.errors import Unavailable
from segue.api.types import Role
from tests.router.small_cluster import RULES, cluster_of, decide, where, worker


def test_a_decode_worker_without_memory_for_prompt_and_answer_is_excluded() -> None:
    cluster = cluster_of(worker("decode-0", free=789), worker("decode-1", free=790))

    assert decide(cluster, {"decode-0": 49_000}).chosen.decode == "decode-2"
    small = cluster_of(*(worker(f"decode-{n}", free=789) for n in (0, 2)))
    small.update_worker(worker("decode-1", free=790))
    assert decide(small).chosen.decode == "decode-1"


def test_a_turn_waits_for_a_worker_that_can_hold_it_but_not_for_one_that_never_could() -> None:
    small = [worker(f"decode-{n}", total=789) for n in (0, 1)]
    cluster = cluster_of(*small, worker("decode-2", free=0, running=50))

    decision = decide(cluster, {"decode-0": 49_000})

    assert decision.chosen.decode == "decode-2"
    assert decision.chosen.excluded is Exclusion.MEMORY
    assert {c.excluded for c in decision.candidates if c.decode == "decode-0"} == {Exclusion.SIZE}


def test_a_prefill_worker_needs_room_only_for_the_prompt() -> None:
    # 50,000 tokens are 782 pages of 64; with the answer they are 790.
    room = [worker("prefill-0", total=782), worker("prefill-1", total=781)]
    cluster = cluster_of(*room, worker("prefill-2", queued=10**6))

    assert decide(cluster).chosen.prefill == "prefill-0"


def test_a_decode_worker_at_the_speed_floor_is_excluded() -> None:
    rules = RULES._replace(min_tokens_per_s=40.0)  # A step of 25 ms: 25 turns.

    kept = decide(cluster_of(worker("decode-1", running=24)), {"decode-1": 49_000}, rules=rules)
    left = decide(cluster_of(worker("decode-1", running=25)), {"decode-1": 49_000}, rules=rules)

    assert kept.chosen.decode == "decode-1"
    assert left.chosen.decode == "decode-0"
    assert {c.excluded for c in left.candidates if c.decode == "decode-1"} == {Exclusion.SPEED}


def test_if_all_are_at_the_floor_the_turn_is_still_placed() -> None:
    full = [worker(f"decode-{n}", running=100 + n) for n in range(3)]

    decision = decide(cluster_of(*full), rules=RULES._replace(min_tokens_per_s=40.0))

    assert where(decision) == ("prefill-0", "decode-0", "compute")
    assert decision.chosen.excluded is Exclusion.SPEED


def test_if_the_first_holder_is_excluded_the_next_one_is_a_candidate() -> None:
    cluster = cluster_of(worker("decode-2", free=1))

    decision = decide(cluster, {"decode-2": 49_000, "decode-1": 48_000})

    assert {c.decode for c in decision.candidates} == {"decode-2", "decode-1", "decode-0"}
    assert decision.chosen.decode == "decode-1"


@pytest.mark.parametrize("health", [WorkerHealth.LOST, WorkerHealth.DRAINING])
def test_a_worker_that_is_not_ready_takes_no_turn_but_is_explained(health: WorkerHealth) -> None:
    cluster = cluster_of(worker("decode-1", health=health))

    decision = decide(cluster, {"decode-1": 49_000})

    assert decision.chosen.decode == "decode-0"
    assert {c.excluded for c in decision.candidates if c.decode == "decode-1"} == {
        Exclusion.NOT_READY
    }
    # A prefix can still be pulled from a draining worker, but not from a lost one.
    assert decision.chosen.mode == ("pull" if health is WorkerHealth.DRAINING else "compute")


def test_a_worker_that_just_failed_is_avoided_as_target_and_as_source() -> None:
    decision = decide(cluster_of(), {"decode-1": 49_000}, avoid=("decode-1", "prefill-0"))

    assert where(decision) == ("prefill-1", "decode-0", "compute")


def test_a_worker_that_just_failed_is_used_again_if_there_is_no_other() -> None:
    lost = [worker(f"decode-{n}", health=WorkerHealth.LOST) for n in (1, 2)]

    assert decide(cluster_of(*lost), avoid=("decode-0",)).chosen.decode == "decode-0"


@pytest.mark.parametrize("role", Role)
def test_a_cluster_without_a_ready_worker_of_a_role_is_unavailable(role: Role) -> None:
    lost = [worker(f"{role}-{n}", health=WorkerHealth.LOST) for n in range(3)]

    with pytest.raises(Unavailable, match=f"no {role} worker is ready") as refused:
        decide(cluster_of(*lost))

    # Clients that retry twice must outlast the restart of a worker.
    assert refused.value.retry_after_s == 5.0


def test_records_of_workers_that_are_gone_are_ignored() -> None:
    assert where(decide(cluster_of(), {"decode-9": 49_000})) == ("prefill-0", "decode-0", "compute")
