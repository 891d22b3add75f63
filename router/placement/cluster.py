"""The workers' load, from heartbeats and from this router's own turns.

A heartbeat is late but includes other routers' turns; this router's own turns are known at once. So
a worker's load is this router's part, which is exact, plus the rest of its last heartbeat.
"""

from __future__ import annotations

import collections
import math
from dataclasses import dataclass

from router.placement.coefficients import (
    PRIOR,
    Coefficients,
    Observation,
    Speed,
    expected_speed,
    learn,
)
from router.placement.estimate import Decision
from router.placement.node import LoadIndex, WorkerNode, counted, share_of_speed, slowed
from segue.api.cluster.status import WorkerStatus
from segue.api.types import WorkerId

_SETTLED_PER_WORKER = 32


@dataclass(slots=True)
class Seat:
    """The load that a placed turn adds, for the placement of others."""

    prefill: WorkerNode
    decode: WorkerNode
    queued_tokens: int
    num_pages: int
    num_heartbeats: int
    """Heartbeats received from the decode worker when the seat was taken."""
    in_prefill: bool = True
    is_held: bool = True


class ClusterModel:
    """One event loop owns it. `place` reads it and changes nothing."""

    def __init__(self, coefficients: Coefficients = PRIOR, *, slow_start_s: float = 0.0) -> None:
        """`slow_start_s`: how long a worker that joins others gets less load than they get."""
        self.coefficients = coefficients
        self.slow_start_s = slow_start_s
        self.own_speeds: dict[WorkerId, Speed] = {}
        self.nodes: dict[WorkerId, WorkerNode] = {}
        self.ready_prefills = LoadIndex()
        self.ready_decodes = LoadIndex()
        self._settled: collections.deque[WorkerNode] = collections.deque()

    def update_worker(self, status: WorkerStatus) -> None:
        """Takes a heartbeat, or the status of a worker that drains or is lost."""
        node = self.nodes.get(status.worker_id)
        if node is None or node.status.epoch != status.epoch:
            # A worker's new epoch has none of the turns of the one before.
            node = self.nodes[status.worker_id] = WorkerNode(status, status.worker_id)
        node.update(status)
        self._let_join(node)
        self._rank(status.worker_id)

    def _let_join(self, node: WorkerNode) -> None:
        """A worker that is ready later than its siblings takes load gradually."""
        if node.is_ready and node.ready_at_uptime_s is None:
            node.ready_at_uptime_s = node.status.uptime_s
            joins = any(
                other.ready_s >= self.slow_start_s > 0.0
                for other in self.nodes.values()
                if other.is_ready and other.is_prefill is node.is_prefill
            )
            node.share = share_of_speed(0.0, self.slow_start_s) if joins else 1.0
        elif node.share < 1.0:
            node.share = share_of_speed(node.ready_s, self.slow_start_s)

    def gone(self, status: WorkerStatus) -> None:
        """The worker left or was forgotten. Its last turns may still `leave` their seats later."""
        node = self.nodes.get(status.worker_id)
        if node is not None and node.status.epoch == status.epoch:
            del self.nodes[status.worker_id]
            self.own_speeds.pop(status.worker_id, None)
            self._rank(status.worker_id)

    def take(self, decision: Decision) -> Seat:
        """Counts a placed turn. The caller must `leave` each seat, however the turn ends."""
        chosen = decision.chosen
        prefill, decode = self.nodes[chosen.prefill], self.nodes[chosen.decode]
        seat = Seat(
            prefill=prefill,
            decode=decode,
            queued_tokens=chosen.plan.computed_tokens,
            num_pages=chosen.target.side.needed_pages,
            num_heartbeats=decode.num_heartbeats,
        )
        self._count_prefill(seat, 1)
        self._count_turn(seat, 1)
        return seat

    def settle(self, node: WorkerNode) -> None:
        """A new session was placed on a decode worker, and its next turns will go there.

        Counts only the latest sessions, about 32 per worker: a worker that joins gets more than its
        share of new sessions, but does not get all of them for long.
        """
        self._settled.append(node)
        self._count_settled(node, 1)
        while len(self._settled) > _SETTLED_PER_WORKER * max(len(self.ready_decodes), 1):
            self._count_settled(self._settled.popleft(), -1)

    def unsettle(self, node: WorkerNode) -> None:
        """Reverts `settle`: the session was placed elsewhere after all."""
        if node in self._settled:
            self._settled.remove(node)
            self._count_settled(node, -1)

    def prefilled(self, seat: Seat) -> None:
        """The turn has its first token: prefill is done with it."""
        if seat.in_prefill:
            seat.in_prefill = False
            self._count_prefill(seat, -1)

    def leave(self, seat: Seat) -> None:
        """The turn ended, or is placed again. Idempotent."""
        self.prefilled(seat)
        if seat.is_held:
            seat.is_held = False
            self._count_turn(seat, -1)

    def learn(self, observation: Observation) -> None:
        self.coefficients, learned = learn(self.coefficients, self.own_speeds, observation)
        self.own_speeds.update(learned)

    def speed_of(self, worker_id: WorkerId) -> Speed:
        """The worker's expected speed for placements: reduced during its slow start."""
        speed = self.full_speed_of(worker_id)
        node = self.nodes.get(worker_id)
        return speed if node is None or node.share >= 1.0 else slowed(speed, node.share)

    def full_speed_of(self, worker_id: WorkerId) -> Speed:
        """The worker's expected speed, ignoring slow start."""
        return expected_speed(self.own_speeds.get(worker_id), self.coefficients.pooled)

    # Both change the seat's own nodes: a worker's new epoch never had the turn.

    def _count_prefill(self, seat: Seat, change: int) -> None:
        node = seat.prefill
        node.own_prefills += change
        node.own_tokens += change * seat.queued_tokens
        if node.is_prefill:
            node.own_turns += change
        self._rank(node.worker_id)

    def _count_turn(self, seat: Seat, change: int) -> None:
        node = seat.decode
        node.own_turns += change
        if node.num_heartbeats == seat.num_heartbeats:
            # A later heartbeat already counts the pages.
            node.room_pages -= change * seat.num_pages
        self._rank(node.worker_id)

    def _count_settled(self, node: WorkerNode, change: int) -> None:
        node.num_settled += change
        if self.nodes.get(node.worker_id) is node:
            self._rank(node.worker_id)

    def _rank(self, worker_id: WorkerId) -> None:
        node = self.nodes.get(worker_id)
        if node is None:
            self.ready_prefills.remove(worker_id)
            self.ready_decodes.remove(worker_id)
            return
        index = self.ready_prefills if node.is_prefill else self.ready_decodes
        if not node.is_ready:
            index.remove(worker_id)
            return
        queue_s = node.queue_s(self.speed_of(worker_id))
        free_pages = node.status.load.pages.free
        running_turns = counted(node.running_turns, node.share)
        num_settled = counted(node.num_settled, node.share)
        index.put(worker_id, (queue_s, running_turns, num_settled, -free_pages))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """How close the cluster is to its limits, for operators and for the launcher, which may change
    the number of workers. `RouterStatus` explains the fields."""

    prefill_queue_s: float = 0.0
    prefill_busy: float = 0.0
    outstanding_handoffs: int = 0
    turn_tokens_per_s: float = 0.0
    turn_tokens_per_s_with_fewer: float = 0.0


def pressure_of(cluster: ClusterModel) -> Pressure:
    nodes = list(cluster.nodes.values())
    prefills = [node for node in nodes if node.is_prefill and node.is_ready]
    decodes = [node for node in nodes if not node.is_prefill and node.is_ready]
    return Pressure(
        prefill_queue_s=min(
            (n.queue_s(cluster.full_speed_of(n.worker_id)) for n in prefills), default=0.0
        ),
        prefill_busy=sum(1.0 for node in prefills if node.own_prefills or node.running_turns),
        outstanding_handoffs=sum(node.own_prefills for node in nodes),
        turn_tokens_per_s=min(
            (_rate(cluster, n, n.running_turns) for n in decodes if n.running_turns), default=0.0
        ),
        turn_tokens_per_s_with_fewer=_with_fewer(cluster, decodes),
    )


def _with_fewer(cluster: ClusterModel, decodes: list[WorkerNode]) -> float:
    running = sum(node.running_turns for node in decodes)
    if not running or len(decodes) < 2:
        return 0.0
    each = math.ceil(running / (len(decodes) - 1))
    return min(_rate(cluster, node, each) for node in decodes)


def _rate(cluster: ClusterModel, node: WorkerNode, turns: int) -> float:
    return 1.0 / max(cluster.full_speed_of(node.worker_id).step.at(turns), 1e-9)
