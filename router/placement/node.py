"""One worker's load: this router's own turns, and the rest of its last heartbeat."""

from __future__ import annotations

from dataclasses import dataclass

from router.placement.coefficients import Speed
from segue.api.cluster_status import WorkerHealth, WorkerStatus
from segue.api.types import Role, WorkerId


@dataclass(slots=True, eq=False)
class WorkerNode:
    """Kept flat, because every decision reads some nodes."""

    status: WorkerStatus
    worker_id: WorkerId
    is_prefill: bool = False
    is_ready: bool = False
    is_lost: bool = False
    total_pages: int = 0
    room_pages: int = 0
    """Free and evictable pages: cached pages give way to a turn. They include the pages of the
    turn's own resident prefix.
    """
    own_tokens: int = 0
    """Tokens to be computed there, for this router's turns that have no first token yet."""
    own_prefills: int = 0
    own_turns: int = 0
    other_tokens: int = 0
    other_turns: int = 0
    num_heard: int = 0
    num_settled: int = 0
    """Recent new sessions that were placed there."""

    def heard(self, status: WorkerStatus) -> None:
        """Takes a heartbeat. It counts this router's turns too: the excess belongs to others."""
        load = status.load
        self.status = status
        self.is_prefill = status.role is Role.PREFILL
        self.is_lost = status.health is WorkerHealth.LOST
        self.is_ready = status.health is WorkerHealth.READY
        self.total_pages = load.pages.total
        self.room_pages = load.pages.free + load.pages.cached
        self.other_tokens = max(load.waiting_tokens - self.own_tokens, 0)
        self.other_turns = max(load.running_turns + load.waiting_turns - self.own_turns, 0)
        self.num_heard += 1

    def queue_s(self, speed: Speed) -> float:
        tokens = self.own_tokens + self.other_tokens
        if not tokens:
            return 0.0
        return speed.compute.per_unit * tokens + speed.compute.fixed * self.own_prefills

    @property
    def running_turns(self) -> int:
        return self.own_turns + self.other_turns
