"""The router's policy, and those it is compared with. All see the same cluster and residency."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from benchmarks.placement.workload import PAGE_TOKENS
from router.placement.cluster import ClusterModel
from router.placement.estimate import Decision, Placement, pair, plans, target_of
from router.placement.node import LoadIndex
from router.placement.policy import place
from router.placement.side import NOTHING, Residency, Rules, Side, TurnSize, side_of
from segue.api.types import WorkerId

RULES = Rules(page_tokens=PAGE_TOKENS, min_tokens_per_s=20.0)
Policy = Callable[[ClusterModel, int, TurnSize, Residency], Decision]


def by_cost(cluster: ClusterModel, session: int, turn: TurnSize, residency: Residency) -> Decision:
    decision = place(turn, cluster, residency, RULES, is_new=not residency)
    if not residency:
        cluster.settle(cluster.nodes[decision.chosen.decode])
    return decision


def least_loaded(
    cluster: ClusterModel, session: int, turn: TurnSize, residency: Residency
) -> Decision:
    return _on(cluster, _least(cluster), turn, residency, may_pull=False)


def least_loaded_pulling(
    cluster: ClusterModel, session: int, turn: TurnSize, residency: Residency
) -> Decision:
    """Ignores caches in placement, but pulls a prefix if that is cheaper than computing it."""
    return _on(cluster, _least(cluster), turn, residency, may_pull=True)


def round_robin() -> Policy:
    counter = itertools.count()
    names: list[list[WorkerId]] = []

    def policy(
        cluster: ClusterModel, session: int, turn: TurnSize, residency: Residency
    ) -> Decision:
        number = next(counter)
        if not names:
            names.extend(sorted(index.first(len(index))) for index in _indices(cluster))
        chosen = names[0][number % len(names[0])], names[1][number % len(names[1])]
        return _on(cluster, chosen, turn, residency, may_pull=False)

    return policy


def sticky() -> Policy:
    """A session never leaves the workers of its first turn."""
    homes: dict[int, tuple[WorkerId, WorkerId]] = {}

    def policy(
        cluster: ClusterModel, session: int, turn: TurnSize, residency: Residency
    ) -> Decision:
        if session not in homes:
            homes[session] = _least(cluster)
        return _on(cluster, homes[session], turn, residency, may_pull=False)

    return policy


POLICIES: Mapping[str, Callable[[], Policy]] = {
    "segue": lambda: by_cost,
    "sticky only": sticky,
    "least loaded + pull": lambda: least_loaded_pulling,
    "least loaded": lambda: least_loaded,
    "round robin": round_robin,
}


def _least(cluster: ClusterModel) -> tuple[WorkerId, WorkerId]:
    prefill, decode = (next(index.first(1)) for index in _indices(cluster))
    return prefill, decode


def _indices(cluster: ClusterModel) -> tuple[LoadIndex, LoadIndex]:
    return cluster.ready_prefills, cluster.ready_decodes


def _on(
    cluster: ClusterModel,
    chosen: tuple[WorkerId, WorkerId],
    turn: TurnSize,
    residency: Residency,
    *,
    may_pull: bool,
) -> Decision:
    """The decision for a given pair of workers."""
    known = cluster.coefficients

    def side(worker_id: WorkerId) -> Side:
        held = residency.get(worker_id, NOTHING)
        node = cluster.nodes[worker_id]
        return side_of(node, held, turn, cluster.speed_of(worker_id), RULES, False)

    prefill, decode = map(side, chosen)
    holders = map(side, residency) if may_pull else iter(())
    source = max(holders, key=lambda one: one.held.checkpoint_tokens, default=None)
    target = target_of(turn, decode, known)
    candidates = [
        candidate
        for plan in plans(turn, prefill, source, known)
        for candidate in pair(plan, [target])
    ]
    best = min(candidates, key=lambda candidate: candidate.total_s)
    placement = Placement(
        prefill=cluster.nodes[best.prefill].status, decode=cluster.nodes[best.decode].status
    )
    return Decision(placement, best, candidates)
