"""The time of one decision, with no simulation between decisions."""

from __future__ import annotations

import collections
import random
import time
from dataclasses import dataclass

from benchmarks.placement.policies import RULES
from benchmarks.placement.workers import SimWorker
from benchmarks.placement.workload import DELTA_TOKENS, FIRST_TOKENS, PAGE_TOKENS
from router.placement.cluster import ClusterModel, Seat
from router.placement.coefficients import Observation
from router.placement.estimate import Decision
from router.placement.policy import place
from router.placement.side import Held, Residency, TurnSize
from segue.api.types import Role, WorkerId

_NUM_TURNS = 30_000
# A turn ends after this many later turns per worker, so that loads differ and change.
_TURNS_IN_FLIGHT_PER_WORKER = 4
# Enough for a worker's own figures to count.
_NUM_OBSERVED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionTimes:
    num_workers: int
    num_sessions: int
    p50_us: float
    p99_us: float


def time_decisions(num_workers: int, num_sessions: int, seed: int = 0) -> DecisionTimes:
    """For later turns of sessions that two decode and two prefill workers hold."""
    draw = random.Random(seed)
    names = {
        role: [WorkerId(f"{role}-{number}") for number in range(num_workers // 2)] for role in Role
    }
    cluster = _cluster(names, draw)
    sessions = [_residency(names, draw) for _ in range(num_sessions)]
    in_flight: collections.deque[Seat] = collections.deque()
    taken_s = []
    for _ in range(_NUM_TURNS):
        residency = sessions[draw.randrange(num_sessions)]
        held = max(one.checkpoint_tokens for one in residency.values())
        turn = TurnSize(held + DELTA_TOKENS, 300)
        started_at = time.perf_counter()
        decision = place(turn, cluster, residency, RULES)
        taken_s.append(time.perf_counter() - started_at)
        in_flight.append(cluster.take(decision))
        if len(in_flight) > _TURNS_IN_FLIGHT_PER_WORKER * num_workers:
            cluster.leave(in_flight.popleft())
    taken_s.sort()
    return DecisionTimes(
        num_workers=num_workers,
        num_sessions=num_sessions,
        p50_us=1e6 * taken_s[len(taken_s) // 2],
        p99_us=1e6 * taken_s[len(taken_s) * 99 // 100],
    )


def one_decision() -> Decision:
    """A decision for a later turn, among four workers."""
    draw = random.Random(0)
    names = {role: [WorkerId(f"{role}-{number}") for number in range(2)] for role in Role}
    return place(TurnSize(2_000, 200), _cluster(names, draw), _residency(names, draw), RULES)


def _cluster(names: dict[Role, list[WorkerId]], draw: random.Random) -> ClusterModel:
    """A cluster that has learned figures for every worker."""
    cluster = ClusterModel()
    for role, workers in names.items():
        for worker_id in workers:
            cluster.update_worker(SimWorker(worker_id, role, slowness=1.0).status())
    for prefill, decode in zip(names[Role.PREFILL], names[Role.DECODE], strict=True):
        for _ in range(_NUM_OBSERVED):
            cluster.learn(_observation(prefill, decode, draw))
    return cluster


def _observation(prefill: WorkerId, decode: WorkerId, draw: random.Random) -> Observation:
    tokens = draw.choice([DELTA_TOKENS, FIRST_TOKENS])
    return Observation(
        prefill=prefill,
        decode=decode,
        computed_tokens=tokens,
        shipped_tokens=tokens,
        shipped_bytes=tokens << 15,
        prefill_s=tokens * draw.uniform(4e-5, 6e-5),
        transfer_s=tokens * draw.uniform(1e-6, 2e-6),
        exposed_transfer_s=0.001,
        completion_tokens=300,
        decode_s=draw.uniform(3.0, 6.0),
        running_turns=4,
    )


def _residency(names: dict[Role, list[WorkerId]], draw: random.Random) -> Residency:
    """The last worker of each role holds more."""
    tokens = FIRST_TOKENS // PAGE_TOKENS * PAGE_TOKENS
    held: dict[WorkerId, Held] = {}
    for role, ahead in ((Role.DECODE, 512), (Role.PREFILL, 256)):
        last, before = draw.sample(names[role], 2)
        held[last] = Held(tokens + ahead, tokens + ahead)
        held[before] = Held(tokens, tokens)
    return held
