"""A worker's load, and the ready workers sorted by it."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Container, Iterator
from dataclasses import dataclass

from router.placement.coefficients import Speed
from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.types import Role, WorkerId
from segue.cost_line import Line

FIRST_SHARE = 0.1
"""Above 0: a worker that gets no turn can never show that it is able to run one."""

Rank = tuple[float, int, int, int]
"""Seconds of queued compute, running turns, recent new sessions, negated free pages. The worker
with the smallest rank takes the next turn."""


class LoadIndex:
    """The ready workers of one role, least loaded first, kept sorted as loads change: a change is
    two binary searches. Equal ranks are ordered by name."""

    def __init__(self) -> None:
        self._order: list[tuple[Rank, WorkerId]] = []
        self._ranks: dict[WorkerId, Rank] = {}

    def __len__(self) -> int:
        return len(self._order)

    def put(self, worker_id: WorkerId, rank: Rank) -> None:
        """Adds a worker, or moves it to its rank."""
        if self._ranks.get(worker_id) == rank:
            return
        self.remove(worker_id)
        self._ranks[worker_id] = rank
        bisect.insort(self._order, (rank, worker_id))

    def remove(self, worker_id: WorkerId) -> None:
        rank = self._ranks.pop(worker_id, None)
        if rank is not None:
            del self._order[bisect.bisect_left(self._order, (rank, worker_id))]

    def first(self, count: int, *, skipping: Container[WorkerId] = ()) -> Iterator[WorkerId]:
        """The `count` least loaded, without those to skip. The index must not change during the
        iteration."""
        for _, worker_id in itertools.islice(self._order, count):
            if worker_id not in skipping:
                yield worker_id

    def check_invariants(self) -> None:
        assert self._order == sorted((rank, name) for name, rank in self._ranks.items())


@dataclass(slots=True, eq=False)
class WorkerNode:
    """One worker's load: this router's own turns, and the rest of its last heartbeat. Flat, because
    every decision reads some nodes."""

    status: WorkerStatus
    worker_id: WorkerId
    is_prefill: bool = False
    is_ready: bool = False
    is_lost: bool = False
    total_pages: int = 0
    room_pages: int = 0
    """Free and evictable pages, including the pages of a turn's own resident prefix."""
    own_tokens: int = 0
    """Tokens queued there for this router's turns without a first token."""
    own_prefills: int = 0
    own_turns: int = 0
    other_tokens: int = 0
    other_turns: int = 0
    num_heartbeats: int = 0
    num_settled: int = 0
    """Recent new sessions that were placed there."""
    share: float = 1.0
    """The share of its speed that placements count with: less than 1 during slow start."""
    ready_at_uptime_s: float | None = None
    """Its uptime when it was first seen ready."""

    @property
    def ready_s(self) -> float:
        """How long it has been ready, by its own clock."""
        since = self.ready_at_uptime_s
        return 0.0 if since is None else self.status.uptime_s - since

    def update(self, status: WorkerStatus) -> None:
        """Takes a heartbeat. It includes this router's turns; the excess belongs to others."""
        load = status.load
        self.status = status
        self.is_prefill = status.role is Role.PREFILL
        self.is_lost = status.health is WorkerHealth.LOST
        self.is_ready = status.health is WorkerHealth.READY
        self.total_pages = load.pages.total
        self.room_pages = load.pages.free + load.pages.cached
        self.other_tokens = max(load.waiting_tokens - self.own_tokens, 0)
        self.other_turns = max(load.running_turns + load.waiting_turns - self.own_turns, 0)
        self.num_heartbeats += 1

    def queue_s(self, speed: Speed) -> float:
        tokens = self.own_tokens + self.other_tokens
        if not tokens:
            return 0.0
        return speed.compute.per_unit * tokens + speed.compute.fixed * self.own_prefills

    @property
    def running_turns(self) -> int:
        return self.own_turns + self.other_turns


# Slow start. A new worker is the least loaded one, so every new session and every prompt that would
# queue would go to it at once: a burst on a process with empty caches and new connections. So for
# some seconds placements count with only a growing share of its speed.


def share_of_speed(ready_s: float, slow_start_s: float) -> float:
    """The share that placements count with for a worker that has been ready for `ready_s`."""
    if ready_s >= slow_start_s:
        return 1.0
    return max(FIRST_SHARE + (1.0 - FIRST_SHARE) * ready_s / slow_start_s, FIRST_SHARE)


def slowed(speed: Speed, share: float) -> Speed:
    """The speed of a worker that counts with a share of it."""
    return speed._replace(compute=_slowed(speed.compute, share), step=_slowed(speed.step, share))


def _slowed(line: Line, share: float) -> Line:
    return line._replace(fixed=line.fixed / share, per_unit=line.per_unit / share)


def counted(load: int, share: float) -> int:
    """The load that a worker with this share is ranked by. Above 0 even if it is idle."""
    return load if share >= 1.0 else int((load + 1) / share) - 1
