"""The cluster as `segue status` and heartbeats report it: workers, their load, sessions."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from segue.api.cluster.fleet import UNKNOWN_FLEET, FleetStatus
from segue.api.types import Epoch, Role, SessionId, WorkerId


class WorkerHealth(enum.StrEnum):
    WARMING = "warming"
    """Has loaded the model and warms up; gets no turns yet."""
    READY = "ready"
    DRAINING = "draining"
    """Finishes its turns and takes no new ones."""
    STUCK = "stuck"
    """Answers, but its engine makes no progress: its turns continue elsewhere, and its process
    ends."""
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
    """Prompt tokens that it still has to compute."""
    tokens_per_s: float = 0.0
    page_tokens: int = 16
    max_turns: int = 0
    """Most turns that run at once; 0: not reported."""
    leased_sessions: int = 0
    """Sessions with a lease, on the device or on the host."""


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
    """Longest time until a draining worker leaves."""
    uptime_s: float = 0.0
    """Time for which its process had served at this report."""
    operators: str = ""
    """The operators in use: Triton, C++ with its kind of products, or the references."""
    cores: str = ""
    """The cores that it uses, as in `0-3,8`."""
    num_threads: int = 0
    """Compute threads of each of its ranks."""

    def as_lost(self) -> WorkerStatus:
        """The status after contact is lost: memory as last reported, and no turns, since the router
        has failed or retried them.
        """
        idle = replace(
            self.load, running_turns=0, waiting_turns=0, waiting_tokens=0, tokens_per_s=0.0
        )
        return replace(self, health=WorkerHealth.LOST, load=idle)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """The router's record of a session after its last turn."""

    session_id: SessionId
    prefill_worker: str
    decode_worker: str
    kept_tokens: int = 0
    """Tokens whose pages the decode worker retains."""
    kept_checkpoint_tokens: int = 0
    """The longest prefix of them whose state the decode worker retains."""


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
    """Turns that wait for a place."""
    pid: int = 0
    uptime_s: float = 0.0
    """Time for which its process has served."""
    prefill_queue_s: float = 0.0
    """Expected wait of the next prompt on the prefill worker with the shortest queue."""
    prefill_busy: float = 0.0
    """Average number of busy prefill workers."""
    outstanding_handoffs: int = 0
    """Turns on workers without a first token yet."""
    turn_tokens_per_s: float = 0.0
    """Expected token rate of each turn on the slowest decode worker. 0: no turn runs."""
    turn_tokens_per_s_with_fewer: float = 0.0
    """The same with one decode worker fewer. 0: no turn runs, or there is only one worker."""
    drafted_tokens: int = 0
    """Tokens drafted for turns that have ended."""
    accepted_tokens: int = 0
    """Drafted tokens that the model accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The served model."""

    name: str
    """The model argument: a hub id, a folder or "demo"."""
    model_id: str
    """Identifies its weights; empty until a worker has joined."""
    max_context: int
    """Most tokens of prompt and answer together."""
    max_turns: int = 0
    """Most turns that the caller's tenant may have in flight; 0 for no limit."""


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
        """The reason why this number of workers cannot serve turns yet; empty if it can."""
        ready = [worker for worker in self.workers if worker.health is WorkerHealth.READY]
        if self.ready and len(ready) >= num_workers:
            return ""
        others = [f"{w.worker_id} is {w.health}" for w in self.workers if w not in ready]
        return ", ".join([f"{len(ready)} of {num_workers} workers are ready", *others])
