"""Chooses the prefill and the decode worker of a turn, with pure functions.

`place` compares a few ways to run the turn by their expected time to first token: on workers that
hold part of the session, and on the least loaded others (`estimate.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from operator import attrgetter, itemgetter

from router.placement.cluster import ClusterModel
from router.placement.coefficients import expected_speed
from router.placement.estimate import (
    Candidate,
    Decision,
    Placement,
    on_decode,
    pairs,
    plans,
    target_of,
)
from router.placement.node import LoadIndex, slowed
from router.placement.side import NOTHING, Residency, Rules, Side, TurnSize, side_of
from segue.api.errors import Unavailable
from segue.api.types import Role, WorkerId


def estimate_error(estimated_s: float, actual_s: float) -> float:
    """An estimate's error, in (-1, 1): 0.5 if it took twice as long, -0.5 if half as long.

    Symmetric and bounded, so that one histogram with even buckets serves milliseconds and minutes.
    """
    largest = max(estimated_s, actual_s)
    return (actual_s - estimated_s) / largest if largest > 0.0 else 0.0


# Most workers to examine for the least loaded feasible ones.
_MAX_LOOKED_AT = 32
# Candidates within this factor are equal, and the first wins: local prefill, then holders, then
# others by load.
_ABOUT_EQUAL = 1.1
# How much later a new session's first token may come, so that new sessions spread over workers.
_NEARLY_EQUAL = 1.25
_NEARLY_EQUAL_S = 0.01
# A worker restarts in about this time, or more if its model is large. HTTP clients wait for it: by
# default, those of OpenAI and Anthropic retry twice, which at 1 s each would be too early.
_RESTART_S = 5.0
# Exclusion, then total_s.
_PREFERENCE = itemgetter(0, 1)
_SERIOUSNESS = attrgetter("excluded")


def place(
    turn: TurnSize,
    cluster: ClusterModel,
    residency: Residency,
    rules: Rules,
    *,
    avoid: Collection[WorkerId] = (),
    is_new: bool = False,
) -> Decision:
    """The feasible way to run the turn with the least expected time to first token; among equals,
    the one on the least loaded workers. Raises Unavailable if a role has no ready worker.

    `is_new`: the session's later turns will follow this one. So among nearly equal decode workers,
    the turn goes where the fewest new sessions went recently: a worker's death then hits fewer
    sessions, and load is balanced before it builds up.

    If nothing is feasible, falls back to the least serious exclusion: workers queue.
    """
    if not (cluster.ready_prefills and cluster.ready_decodes):
        role = Role.DECODE if cluster.ready_prefills else Role.PREFILL
        raise Unavailable.after(
            f"no {role} worker is ready; see `segue status`, then try again",
            retry_after_s=_RESTART_S,
        )
    candidates = _weigh(turn, cluster, residency, rules, avoid)
    chosen = _choose(_spread(candidates, cluster) if is_new else candidates)
    nodes = cluster.nodes
    placement = Placement(nodes[chosen.prefill].status, nodes[chosen.decode].status)
    return Decision(placement, chosen, candidates)


def _choose(candidates: Sequence[Candidate]) -> Candidate:
    """The first pair of workers that is about as good as the best, with that pair's best mode.

    Estimates are not more precise, and a session that moves leaves a copy behind.
    """
    best = min(candidates, key=_PREFERENCE)
    limit = best.excluded, best.total_s * _ABOUT_EQUAL
    near = [candidate for candidate in candidates if candidate[:2] <= limit]
    if len(near) == 1:
        return best
    prefill, decode = near[0].plan.side, near[0].target.side
    return min(
        (c for c in near if c.plan.side is prefill and c.target.side is decode), key=_PREFERENCE
    )


def _spread(candidates: Sequence[Candidate], cluster: ClusterModel) -> Sequence[Candidate]:
    """The candidates on the decode worker that should get the new session."""
    best = min(candidates, key=_PREFERENCE)
    limit = best.excluded, max(best.total_s * _NEARLY_EQUAL, best.total_s + _NEARLY_EQUAL_S)
    near = {c.decode: c.target.side for c in candidates if c[:2] <= limit}

    def load(side: Side) -> float:
        # A slow worker gets fewer sessions.
        return (cluster.nodes[side.worker_id].num_settled + 1) * side.speed.step.at(1)

    home = min(near.values(), key=load).worker_id
    return [candidate for candidate in candidates if candidate.decode == home]


def longest_holder(
    residency: Residency, cluster: ClusterModel, *, avoid: Collection[WorkerId]
) -> tuple[WorkerId, int] | None:
    """The worker with the session's deepest state, and its depth in tokens. The first of equals."""
    holders = [
        (held.checkpoint_tokens, worker_id)
        for worker_id, held in residency.items()
        if held.checkpoint_tokens and _may_give(worker_id, cluster, avoid)
    ]
    if not holders:
        return None
    tokens, worker_id = max(holders, key=itemgetter(0))
    return worker_id, tokens


def _weigh(
    turn: TurnSize,
    cluster: ClusterModel,
    residency: Residency,
    rules: Rules,
    avoid: Collection[WorkerId],
) -> list[Candidate]:
    def side(worker_id: WorkerId) -> Side:
        held = residency.get(worker_id, NOTHING)
        speed, node = expected_speed(own_speeds.get(worker_id), pooled), nodes[worker_id]
        if node.share < 1.0:
            speed = slowed(speed, node.share)
        return side_of(node, held, turn, speed, rules, worker_id in avoid)

    nodes, own_speeds, known = cluster.nodes, cluster.own_speeds, cluster.coefficients
    pooled = known.pooled
    prefill_holders, decode_holders = _holders(cluster, residency)
    prefills = _sides(cluster.ready_prefills, prefill_holders, side, rules.num_weighed)
    decodes = _sides(cluster.ready_decodes, decode_holders, side, rules.num_weighed)
    source = _deepest([*decodes, *prefills], cluster, avoid) if residency else None
    targets = [target_of(turn, decode, known) for decode in decodes]
    candidates: list[Candidate] = []
    if rules.local_prefill_max_tokens:
        able = [prefill.held.checkpoint_tokens for prefill in prefills if not prefill.excluded]
        deepest = max(able, default=0)
        candidates.extend(on_decode(turn, targets, known, rules, deepest_tokens=deepest))
    for prefill in prefills:
        candidates.extend(pairs(plans(turn, prefill, source, known), targets))
    return candidates


def _sides(
    index: LoadIndex,
    holders: Sequence[WorkerId],
    side: Callable[[WorkerId], Side],
    num_weighed: int,
) -> list[Side]:
    """The holders up to the first feasible one, then the least loaded feasible others; if none of
    those is feasible, the least seriously excluded others.
    """
    weighed: list[Side] = []
    for worker_id in holders:
        weighed.append(side(worker_id))
        if not weighed[-1].excluded:
            break
    num_others = max(num_weighed - len(weighed), 1)
    feasible: list[Side] = []
    excluded: list[Side] = []
    for worker_id in index.first(_MAX_LOOKED_AT, skipping=holders[: len(weighed)]):
        other = side(worker_id)
        (excluded if other.excluded else feasible).append(other)
        if len(feasible) == num_others:
            break
    return weighed + (feasible or sorted(excluded, key=_SERIOUSNESS)[:num_others])


def _holders(cluster: ClusterModel, residency: Residency) -> tuple[list[WorkerId], list[WorkerId]]:
    """The prefill and the decode workers that hold part of the session, longest prefix first."""
    prefills: list[WorkerId] = []
    decodes: list[WorkerId] = []
    nodes = cluster.nodes
    for worker_id in sorted(residency, key=residency.__getitem__, reverse=True):
        node = nodes.get(worker_id)
        if node is not None:
            (prefills if node.is_prefill else decodes).append(worker_id)
    return prefills, decodes


def _deepest(
    sides: Iterable[Side], cluster: ClusterModel, avoid: Collection[WorkerId]
) -> Side | None:
    """The worker to pull a prefix from."""
    deepest, most_tokens = None, 0
    for side in sides:
        depth = side.held.checkpoint_tokens
        if depth > most_tokens and _may_give(side.worker_id, cluster, avoid):
            deepest, most_tokens = side, depth
    return deepest


def _may_give(worker_id: WorkerId, cluster: ClusterModel, avoid: Collection[WorkerId]) -> bool:
    """Whether a prefix may be pulled from the worker, which may be draining."""
    node = cluster.nodes.get(worker_id)
    return node is not None and not node.is_lost and worker_id not in avoid
