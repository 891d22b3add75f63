"""Agents and workers in virtual time. Placement, learning and load tracking are the router's own.

A turn is three events: it arrives and is placed; its first token appears; its answer ends. The
router's view of residency comes from the last turns' reports: evictions make it stale.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import random
import time
from collections.abc import Callable

from benchmarks.placement.policies import Policy
from benchmarks.placement.result import Tally
from benchmarks.placement.workers import SimWorker
from benchmarks.placement.workload import (
    COMPUTE_FIXED_S,
    COMPUTE_S_PER_TOKEN,
    HEARTBEAT_S,
    HIDDEN_SHARE,
    LINK_FIXED_S,
    LINK_S_PER_BYTE,
    MAX_TOKENS,
    OVERHEAD_S,
    PAGE_TOKENS,
    SLOT_BYTES,
    SLOW_FACTOR,
    SLOW_SHARE,
    STEP_FIXED_S,
    STEP_S_PER_TURN,
    TOKEN_BYTES,
    Agents,
    Scale,
    Session,
    TurnShape,
)
from router.placement.cluster import ClusterModel, Seat
from router.placement.coefficients import Observation
from router.placement.estimate import Decision
from router.placement.policy import estimate_error
from router.placement.side import Held, TurnSize
from segue.api.types import Role, WorkerId

Event = tuple[float, int, Callable[[], None]]
# The number of workers per role that the directory remembers for a session.
_REMEMBERED = 2


class Simulation:
    """`_Turn` decides when what happens to its workers and to the router's view of them."""

    def __init__(self, scale: Scale, policy: Policy) -> None:
        self.tally = Tally()
        self._policy = policy
        self._scale = scale
        self.agents = Agents(scale)
        self.cluster = ClusterModel()
        self.workers = _workers(scale)
        self._residency: dict[int, collections.OrderedDict[WorkerId, Held]] = {}
        self.now = 0.0
        self._events: list[Event] = []
        self._order = itertools.count()
        self._sessions_left = scale.num_sessions

    def run(self) -> Tally:
        self.at(0.0, self._heartbeats)
        self.at(0.0, lambda: self._arrive(0))
        while self._events:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
        self.tally.finish(self.workers.values(), self.now)
        return self.tally

    def at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happen))

    def _heartbeats(self) -> None:
        for worker in self.workers.values():
            self.cluster.update_worker(worker.status())
        if self._sessions_left:
            self.at(self.now + HEARTBEAT_S, self._heartbeats)

    def _arrive(self, name: int) -> None:
        session = self.agents.session(name)
        self._residency[name] = collections.OrderedDict()
        if name + 1 < self._scale.num_sessions:
            gap_s = self.agents.arrival_gap_s()
            self.at(self.now + gap_s, lambda: self._arrive(name + 1))
        self._place(session)

    def _place(self, session: Session) -> None:
        shape = self.agents.turn(session)
        size = TurnSize(shape.prompt_tokens, MAX_TOKENS)
        residency = self._residency[session.name]
        started_ns, started_cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
        decision = self._policy(self.cluster, session.name, size, residency)
        self.tally.decisions_ns.append(time.perf_counter_ns() - started_ns)
        self.tally.decisions_cpu_ns.append(time.thread_time_ns() - started_cpu_ns)
        _Turn(self, session, shape, decision)

    def ended(self, session: Session, seat: Seat, seen: Observation) -> None:
        self.cluster.leave(seat)
        self.cluster.learn(seen)
        session.turns_left -= 1
        session.num_done += 1
        if session.turns_left:
            self.at(self.now + self.agents.pause_s(session), lambda: self._place(session))
        else:
            del self._residency[session.name]
            self._sessions_left -= 1

    def remember(self, session: int, worker: SimWorker) -> None:
        """Records the worker's report at the turn's end, and drops the oldest of its role."""
        residency = self._residency[session]
        tokens = worker.held(session)
        residency[worker.worker_id] = Held(tokens, tokens)
        residency.move_to_end(worker.worker_id)
        same_role = [one for one in residency if self.workers[one].role is worker.role]
        for forgotten in same_role[:-_REMEMBERED]:
            del residency[forgotten]


class _Turn:
    """One turn as it actually runs."""

    def __init__(
        self, world: Simulation, session: Session, shape: TurnShape, decision: Decision
    ) -> None:
        self._world = world
        self._session = session
        self._shape = shape
        self._seat = world.cluster.take(decision)
        self._estimated_s = decision.chosen.total_s
        self._prefill = world.workers[decision.chosen.prefill]
        self._decode = world.workers[decision.chosen.decode]
        source = decision.chosen.source
        self._dispatch(None if source is None else world.workers[source])

    def _dispatch(self, source: SimWorker | None) -> None:
        world, prefill, decode = self._world, self._prefill, self._decode
        name, prompt_tokens = self._session.name, self._shape.prompt_tokens
        cached = prefill.held(name)
        pull_s, pulled_bytes = 0.0, 0
        if source is not None and source.held(name) > cached:
            pulled_bytes = SLOT_BYTES + (source.held(name) - cached) * TOKEN_BYTES
            pull_s = _link_s(pulled_bytes) * world.agents.noise()
            cached = source.held(name)
        resident = decode.held(name)
        decode.drop(name)
        decode.start(prompt_tokens + MAX_TOKENS)
        self._computed_tokens = prompt_tokens - cached
        prefill.waiting_tokens += self._computed_tokens
        started_at = max(prefill.free_at, world.now + pull_s)
        compute_s = COMPUTE_FIXED_S + COMPUTE_S_PER_TOKEN * self._computed_tokens
        compute_s *= prefill.slowness * world.agents.noise()
        prefill.free_at = started_at + compute_s
        prefill.busy_s += compute_s
        shipped_bytes = SLOT_BYTES + (prompt_tokens - resident) * TOKEN_BYTES
        move_s = _link_s(shipped_bytes) * world.agents.noise()
        pages_share = 1 - SLOT_BYTES / shipped_bytes
        computed_share = min((prompt_tokens - resident) / self._computed_tokens, 1.0)
        hidden_s = HIDDEN_SHARE * min(move_s * pages_share, compute_s * computed_share)
        exposed_s = move_s - hidden_s
        first_token_s = prefill.free_at + exposed_s + OVERHEAD_S - world.now
        # A step's time is that at the moment when the turn joins; it is not updated later.
        step_s = (STEP_FIXED_S + STEP_S_PER_TURN * decode.running_turns) * decode.slowness
        decode_s = step_s * (self._shape.answer_tokens - 1) * world.agents.noise()
        seen = Observation(
            prefill=prefill.worker_id,
            decode=decode.worker_id,
            computed_tokens=self._computed_tokens,
            shipped_tokens=prompt_tokens - resident,
            shipped_bytes=shipped_bytes,
            queue_s=started_at - world.now,
            prefill_s=compute_s,
            transfer_s=move_s,
            exposed_transfer_s=exposed_s,
            pulled_from=source.worker_id if source is not None and pulled_bytes else None,
            pulled_bytes=pulled_bytes,
            pull_s=pull_s,
            placed_to_first_token_s=first_token_s,
            completion_tokens=self._shape.answer_tokens,
            decode_s=decode_s,
            running_turns=decode.running_turns,
        )
        world.tally.turn(
            is_first=self._session.num_done == 0,
            first_token_s=first_token_s,
            error=estimate_error(self._estimated_s, first_token_s),
            reusable_tokens=self._session.history_tokens // PAGE_TOKENS * PAGE_TOKENS,
            reused_tokens=cached,
            moved_bytes=shipped_bytes + pulled_bytes,
            pulled=pulled_bytes > 0,
        )
        world.at(world.now + first_token_s, self._first_token)
        world.at(world.now + first_token_s + decode_s, lambda: self._end(seen))

    def _first_token(self) -> None:
        self._prefill.waiting_tokens -= self._computed_tokens
        self._prefill.keep(self._session.name, self._shape.prompt_tokens)
        self._world.cluster.prefilled(self._seat)

    def _end(self, seen: Observation) -> None:
        session, decode = self._session, self._decode
        decode.busy_s += seen.decode_s
        decode.end(self._shape.prompt_tokens + MAX_TOKENS)
        session.history_tokens = self._shape.prompt_tokens + self._shape.answer_tokens
        decode.keep(session.name, session.history_tokens)
        self._world.remember(session.name, self._prefill)
        self._world.remember(session.name, decode)
        self._world.ended(session, self._seat, seen)


def _workers(scale: Scale) -> dict[WorkerId, SimWorker]:
    chance = random.Random(scale.seed)
    workers = {}
    for role in Role:
        for number in range(scale.num_workers // 2):
            name = WorkerId(f"{role}-{number:04}")
            slowness = SLOW_FACTOR if chance.random() < SLOW_SHARE else 1.0
            workers[name] = SimWorker(name, role, slowness)
    return workers


def _link_s(num_bytes: int) -> float:
    return LINK_FIXED_S + LINK_S_PER_BYTE * num_bytes
