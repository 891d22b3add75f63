"""Which prefill and which decode worker take a turn: pure functions of what is known.

`place` weighs a few ways to run the turn by their expected time to first token
(`router/placement/`): the workers that hold some of the session, and the least loaded others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from router.placement.cluster import Cluster
from router.placement.decision import Decision, Placement
from router.placement.estimate import Candidate, on_decode, pairs, plans, target_of
from router.placement.load_index import LoadIndex
from router.placement.side import (
    NOTHING,
    Held,
    Residency,
    Rules,
    Side,
    TurnSize,
    side_of,
)
from segue.errors import Unavailable
from segue.types import Role, WorkerHealth, WorkerId, WorkerStatus

__all__ = ["Placement", "Residence", "place", "place_by_load"]

# Workers with some of the session that are weighed, by role; more hold less, or hold it longer ago.
_MAX_HOLDERS = 2
# To find the least loaded that are feasible, so many are looked at, no more.
_MAX_LOOKED_AT = 32
# Exclusion, then total_s. The first of equals wins: holders come before others, those by load.
_PREFERENCE = itemgetter(0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Residence:
    """The workers that served a session last."""

    prefill: WorkerId
    decode: WorkerId


def place(
    turn: TurnSize,
    cluster: Cluster,
    residency: Residency,
    rules: Rules,
    *,
    avoid: Collection[WorkerId] = (),
) -> Decision:
    """The feasible way to run the turn with the least expected time to first token; of equal ones
    that on the least loaded workers. Raises Unavailable when a role has no ready worker.

    When nothing is feasible, the least serious exclusion is put up with: workers queue.
    """
    if not (cluster.ready_prefills and cluster.ready_decodes):
        role = Role.DECODE if cluster.ready_prefills else Role.PREFILL
        raise Unavailable(f"no {role} worker is ready; see `segue status`, then try again")
    candidates = _weigh(turn, cluster, residency, rules, avoid)
    chosen = min(candidates, key=_PREFERENCE)
    placement = Placement(
        prefill=cluster.nodes[chosen.prefill].status, decode=cluster.nodes[chosen.decode].status
    )
    return Decision(placement, chosen, candidates)


def _weigh(
    turn: TurnSize,
    cluster: Cluster,
    residency: Residency,
    rules: Rules,
    avoid: Collection[WorkerId],
) -> list[Candidate]:
    known = cluster.coefficients
    nodes = cluster.nodes

    def side(worker_id: WorkerId) -> Side:
        held = residency.get(worker_id, NOTHING)
        speed = known.of(worker_id)
        return side_of(nodes[worker_id], held, turn, speed, rules, worker_id in avoid)

    def sides(index: LoadIndex, holders: list[WorkerId]) -> list[Side]:
        idle = map(side, index.first(_MAX_LOOKED_AT, skipping=holders))
        return [*map(side, holders), *_feasible(idle, rules.num_weighed - len(holders))]

    prefill_holders, decode_holders = _holders(cluster, residency)
    prefills = sides(cluster.ready_prefills, prefill_holders)
    decodes = sides(cluster.ready_decodes, decode_holders)
    source = _deepest([*decodes, *prefills], cluster, avoid) if residency else None
    targets = [target_of(turn, decode, known) for decode in decodes]
    candidates: list[Candidate] = []
    for prefill in prefills:
        candidates.extend(pairs(plans(turn, prefill, source, known), targets))
    if rules.local_prefill_max_tokens:
        candidates.extend(on_decode(turn, targets, known, rules))
    return candidates


def _feasible(sides: Iterable[Side], count: int) -> list[Side]:
    """The first `count` that may take the turn; the first of all where none may."""
    feasible: list[Side] = []
    excluded: list[Side] = []
    for side in sides:
        (excluded if side.excluded else feasible).append(side)
        if len(feasible) == count:
            break
    return feasible or excluded[:count]


def _holders(cluster: Cluster, residency: Residency) -> tuple[list[WorkerId], list[WorkerId]]:
    """The prefill and the decode workers that hold most, whatever their health: the explanation
    shows them.
    """
    prefills: list[tuple[Held, WorkerId]] = []
    decodes: list[tuple[Held, WorkerId]] = []
    for worker_id, held in residency.items():
        node = cluster.nodes.get(worker_id)
        if node is not None:
            (prefills if node.is_prefill else decodes).append((held, worker_id))
    return _most(prefills), _most(decodes)


def _most(held: list[tuple[Held, WorkerId]]) -> list[WorkerId]:
    if len(held) > 1:
        held.sort(reverse=True)
    return [worker_id for _, worker_id in held[:_MAX_HOLDERS]]


def _deepest(sides: Iterable[Side], cluster: Cluster, avoid: Collection[WorkerId]) -> Side | None:
    """From whom a prefix would be pulled. A draining worker may still give."""
    deepest: Side | None = None
    for side in sides:
        depth = side.held.checkpoint_tokens
        if depth > (deepest.held.checkpoint_tokens if deepest else 0) and (
            side.worker_id not in avoid and not cluster.nodes[side.worker_id].is_lost
        ):
            deepest = side
    return deepest


def place_by_load(
    workers: Sequence[WorkerStatus],
    turns_in_flight: Mapping[WorkerId, int],
    *,
    residence: Residence | None,
    sticky_imbalance: int,
    avoid: Collection[WorkerId] = (),
) -> Placement:
    """The session's own workers first, then the least loaded. Raises Unavailable.

    Load is what the router itself has in flight there or what the worker reported, whichever is
    greater: the first is exact but knows one router only, the second knows all but is late.
    """

    def load(worker: WorkerStatus) -> int:
        reported = worker.load.running_turns + worker.load.waiting_turns
        return max(turns_in_flight.get(worker.worker_id, 0), reported)

    def choose(role: Role, preferred: WorkerId | None) -> WorkerStatus:
        return _choose(_ready(workers, role, avoid), load, preferred, sticky_imbalance)

    return Placement(
        prefill=choose(Role.PREFILL, residence.prefill if residence else None),
        decode=choose(Role.DECODE, residence.decode if residence else None),
    )


def _ready(
    workers: Sequence[WorkerStatus], role: Role, avoid: Collection[WorkerId]
) -> list[WorkerStatus]:
    ready = [w for w in workers if w.role is role and w.health is WorkerHealth.READY]
    if not ready:
        raise Unavailable(f"no {role} worker is ready; see `segue status`, then try again")
    # A worker that just failed this turn is used again only when there is no other.
    return [w for w in ready if w.worker_id not in avoid] or ready


def _choose(
    candidates: Sequence[WorkerStatus],
    load: Callable[[WorkerStatus], int],
    preferred: WorkerId | None,
    sticky_imbalance: int,
) -> WorkerStatus:
    # Equal loads go to the worker with more free pages, then by name, so that the choice is stable.
    least = min(candidates, key=lambda w: (load(w), -w.load.pages.free, w.worker_id))
    for worker in candidates:
        if worker.worker_id == preferred and load(worker) - load(least) < sticky_imbalance:
            return worker
    return least
