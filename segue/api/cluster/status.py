"""The cluster as `segue status` and heartbeats report it: workers, their load, sessions."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from segue.api.cluster.fleet import UNKNOWN_FLEET, FleetStatus
from segue.api.types import Epoch, Role, SessionId, WorkerId


class WorkerHealth(enum.StrEnum):
    WARMING = "warming"
    """Has loaded the model and runs its first passes; gets no turns yet."""
    READY = "ready"
    DRAINING = "draining"
    """Finishes its turns and takes no new ones."""
    STUCK = "stuck"
    """Answers, but its engine makes no progress: turns go on elsewhere, and its process ends."""
    LOST = "lost"
    """Missed heartbeats or lost its connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCounts:
    """Pages or slots by state."""

    total: int = 0
    free: int = 0
    working: int = 0
    cached: int = 0
    reserved: int = 0
    quarantined: int = 0
    stray: int = 0
    """Units in use whose owner no longer exists: a leak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    pages: UnitCounts = UnitCounts()
    slots: UnitCounts = UnitCounts()
    host_pages: UnitCounts = UnitCounts()
    """Pages of the host tier; the total is 0 without one."""
    host_slots: UnitCounts = UnitCounts()
    running_turns: int = 0
    waiting_turns: int = 0
    waiting_tokens: int = 0
    """Prompt tokens still to be computed here."""
    tokens_per_s: float = 0.0
    page_tokens: int = 16
    max_turns: int = 0
    """Most turns that run here at once; 0: not reported."""
    leased_sessions: int = 0
    """Sessions with a lease here, on the device or on the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One worker as the router and an operator see it."""

    worker_id: WorkerId
    role: Role
    epoch: Epoch
    address: str
    metrics_address: str = ""
    health: WorkerHealth = WorkerHealth.READY
    load: WorkerLoad = WorkerLoad()
    pid: int = 0
    host: str = ""
    drain_left_s: float = 0.0
    """Until a worker that drains leaves, at the latest."""
    uptime_s: float = 0.0
    """Since its process serves, when it reported this."""
    operators: str = ""
    """What computes: Triton, C++ and how it multiplies, or the references."""
    cores: str = ""
    """The cores that it keeps to, as in `0-3,8`."""
    num_threads: int = 0
    """That compute, in each of its ranks."""

    def as_lost(self) -> WorkerStatus:
        """The status once contact is lost: memory as last reported, and no turns, since the router
        has failed or retried them.
        """
        idle = replace(
            self.load, running_turns=0, waiting_turns=0, waiting_tokens=0, tokens_per_s=0.0
        )
        return replace(self, health=WorkerHealth.LOST, load=idle)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """What the router remembers about a session after its last turn."""

    session_id: SessionId
    prefill_worker: str
    decode_worker: str
    kept_tokens: int = 0
    """Tokens whose pages the decode worker keeps."""
    kept_checkpoint_tokens: int = 0
    """The longest prefix of them whose state the decode worker keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterStatus:
    address: str
    metrics_address: str = ""
    sessions: int = 0
    running_turns: int = 0
    finished_turns: int = 0
    failed_turns: int = 0
    cancelled_turns: int = 0
    completion_tokens_per_s: float = 0.0
    draining: bool = False
    waiting_turns: int = 0
    """Those that wait for a place."""
    pid: int = 0
    uptime_s: float = 0.0
    """Since its process serves."""
    prefill_queue_s: float = 0.0
    """Expected wait of the next prompt on the prefill worker with the shortest queue."""
    prefill_busy: float = 0.0
    """The prefill workers' computing, in workers that are busy all the time."""
    outstanding_handoffs: int = 0
    """Turns on workers that have no first token yet."""
    turn_tokens_per_s: float = 0.0
    """Expected token rate of each turn on the slowest decode worker. 0: no turn runs."""
    turn_tokens_per_s_with_fewer: float = 0.0
    """The same if there were one decode worker less. 0: no turn runs, or there is one worker."""
    drafted_tokens: int = 0
    """For turns that have ended."""
    accepted_tokens: int = 0
    """Of these, what the model accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The served model."""

    name: str
    """As it was started: a hub id, a folder or "demo"."""
    model_id: str
    """Identifies its weights; empty until a worker has joined."""
    max_context: int
    """Most tokens of prompt and answer together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    ready: bool
    """At least one worker of each role is ready, and the router admits turns."""
    model: str
    model_id: str
    workers: tuple[WorkerStatus, ...]
    router: RouterStatus
    fleet: FleetStatus = UNKNOWN_FLEET

    def missing(self, num_workers: int) -> str:
        """What is missing until turns can be served with this number of workers; empty if nothing
        is."""
        ready = [worker for worker in self.workers if worker.health is WorkerHealth.READY]
        if self.ready and len(ready) >= num_workers:
            return ""
        others = [f"{w.worker_id} is {w.health}" for w in self.workers if w not in ready]
        return ", ".join([f"{len(ready)} of {num_workers} workers are ready", *others])
