"""Workers that join a serving cluster take load gradually; all others count in full."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from router.placement.cluster import ClusterModel, pressure_of
from router.placement.coefficients import PRIOR
from router.placement.node import counted, share_of_speed, slowed
from router.placement.policy import place
from router.placement.side import Rules, TurnSize
from segue.api.cluster.status import WorkerHealth
from segue.api.types import WorkerId
from tests.router.small_cluster import worker

SLOW_START_S = 30.0
SIZE = TurnSize(1_000, 100)


@pytest.mark.parametrize(
    ("ready_s", "slow_start_s", "share"),
    [(0, 30, 0.1), (15, 30, 0.55), (30, 30, 1), (99, 30, 1), (0, 0, 1), (-1, 30, 0.1)],
)
def test_the_share_grows_to_one(ready_s: float, slow_start_s: float, share: float) -> None:
    assert share_of_speed(ready_s, slow_start_s) == pytest.approx(share)


@pytest.mark.parametrize(
    ("load", "share", "seen"), [(0, 1, 0), (7, 1, 7), (0, 0.1, 9), (1, 0.5, 3), (0, 0.55, 0)]
)
def test_an_idle_worker_that_joins_is_not_the_least_loaded(
    load: int, share: float, seen: int
) -> None:
    assert counted(load, share) == seen


def test_only_computing_is_slower() -> None:
    speed = slowed(PRIOR.pooled, 0.5)

    assert speed.compute.at(100) == pytest.approx(2 * PRIOR.pooled.compute.at(100))
    assert speed.step.at(3) == pytest.approx(2 * PRIOR.pooled.step.at(3))
    assert speed.link == PRIOR.pooled.link


def serving_cluster(slow_start_s: float = SLOW_START_S) -> ClusterModel:
    """Two workers that have served for long."""
    cluster = ClusterModel(slow_start_s=slow_start_s)
    for name in ("prefill-0", "decode-0"):
        cluster.update_worker(worker(name, uptime_s=5))
        cluster.update_worker(worker(name, uptime_s=500))
    return cluster


def new_sessions(cluster: ClusterModel, count: int) -> Counter[str]:
    """Where so many new sessions go, which stay."""
    went: Counter[str] = Counter()
    for _ in range(count):
        decision = place(SIZE, cluster, {}, Rules(), is_new=True)
        seat = cluster.take(decision)
        cluster.settle(seat.decode)
        cluster.leave(seat)
        went[decision.chosen.decode] += 1
    return went


def test_a_worker_that_joins_gets_a_share_of_new_sessions_that_grows() -> None:
    cluster = serving_cluster()
    new_sessions(cluster, 40)
    cluster.update_worker(worker("decode-1", uptime_s=7))

    at_once = new_sessions(cluster, 30)["decode-1"]
    cluster.update_worker(worker("decode-1", uptime_s=7 + SLOW_START_S / 2))
    halfway = new_sessions(cluster, 30)["decode-1"]
    cluster.update_worker(worker("decode-1", uptime_s=7 + SLOW_START_S))
    later = new_sessions(cluster, 60)["decode-1"]

    assert 1 <= at_once <= 5
    assert at_once < halfway < 30
    assert later >= 30, "it catches up"


def test_without_a_slow_start_it_gets_all_of_them_at_first() -> None:
    cluster = serving_cluster(slow_start_s=0.0)
    new_sessions(cluster, 40)
    cluster.update_worker(worker("decode-1", uptime_s=7))

    assert new_sessions(cluster, 20)["decode-1"] == 20


def test_a_prefill_worker_that_joins_takes_prompts_once_the_queue_is_long() -> None:
    cluster = serving_cluster()
    cluster.update_worker(worker("prefill-1", uptime_s=7))

    chosen = []
    for _ in range(20):
        decision = place(SIZE, cluster, {}, Rules())
        cluster.take(decision)
        chosen.append(decision.chosen.prefill)

    assert chosen[:5] == ["prefill-0"] * 5
    assert 1 <= chosen.count(WorkerId("prefill-1")) <= 4


@pytest.mark.parametrize("together", [["decode-0", "decode-1"], ["decode-1", "decode-0"]])
def test_workers_that_start_together_count_in_full(together: list[str]) -> None:
    cluster = ClusterModel(slow_start_s=SLOW_START_S)
    for seconds, name in enumerate(together):
        cluster.update_worker(worker(name, uptime_s=seconds))
        cluster.update_worker(worker(name, uptime_s=seconds + 20))

    assert {node.share for node in cluster.nodes.values()} == {1.0}


def test_time_counts_from_when_it_is_ready_not_from_its_start() -> None:
    cluster = serving_cluster()
    warming = worker("decode-1", uptime_s=1, health=WorkerHealth.WARMING)
    cluster.update_worker(warming)
    assert len(cluster.ready_decodes) == 1, "it takes no turns"

    cluster.update_worker(replace(warming, uptime_s=100, health=WorkerHealth.READY))
    assert cluster.nodes[WorkerId("decode-1")].share == pytest.approx(0.1)
    cluster.update_worker(replace(warming, uptime_s=131, health=WorkerHealth.READY))
    assert cluster.nodes[WorkerId("decode-1")].share == 1.0


def test_a_router_that_restarts_slows_nobody() -> None:
    cluster = ClusterModel(slow_start_s=SLOW_START_S)
    for name in ("decode-0", "decode-1", "decode-2"):
        cluster.update_worker(worker(name, uptime_s=5_000))

    assert {node.share for node in cluster.nodes.values()} == {1.0}


def test_pressure_of_a_loaded_cluster() -> None:
    cluster = serving_cluster()
    assert pressure_of(cluster).turn_tokens_per_s == 0.0

    for _ in range(3):
        cluster.take(place(SIZE, cluster, {}, Rules()))
    alone = pressure_of(cluster)
    cluster.update_worker(worker("decode-1", uptime_s=1))
    both = pressure_of(cluster)

    compute, step = PRIOR.pooled.compute, PRIOR.pooled.step
    assert alone.prefill_queue_s == pytest.approx(3 * compute.at(1_000))
    assert alone.outstanding_handoffs == 3
    assert alone.prefill_busy == 1
    assert alone.turn_tokens_per_s == pytest.approx(1 / step.at(3))
    assert alone.turn_tokens_per_s_with_fewer == 0.0
    assert both.turn_tokens_per_s_with_fewer == pytest.approx(1 / step.at(3))
