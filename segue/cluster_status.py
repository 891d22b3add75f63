"""The cluster as `segue status` and heartbeats tell it: workers, their load, sessions."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from segue.types import Epoch, Role, SessionId, WorkerId


class WorkerHealth(enum.StrEnum):
    READY = "ready"
    DRAINING = "draining"
    """Finishes what it has, takes nothing more."""
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
    """Of those in use, owned by something that is not there any more: a leak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    pages: UnitCounts = UnitCounts()
    slots: UnitCounts = UnitCounts()
    host_pages: UnitCounts = UnitCounts()
    """Of the host tier; none in total where there is none."""
    host_slots: UnitCounts = UnitCounts()
    running_turns: int = 0
    waiting_turns: int = 0
    waiting_tokens: int = 0
    """Prompt tokens that are still to be computed here."""
    tokens_per_s: float = 0.0
    page_tokens: int = 16


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

    def as_lost(self) -> WorkerStatus:
        """The worker once contact is lost: its memory as last heard, and no turns, since the router
        has failed or retried those that it had.
        """
        idle = replace(
            self.load, running_turns=0, waiting_turns=0, waiting_tokens=0, tokens_per_s=0.0
        )
        return replace(self, health=WorkerHealth.LOST, load=idle)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """What the router remembers of a session after its last turn."""

    session_id: SessionId
    prefill_worker: str
    decode_worker: str
    kept_tokens: int = 0
    """Tokens whose pages the decode worker kept."""
    kept_checkpoint_tokens: int = 0
    """The longest prefix of them that has a state there."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    ready: bool
    """At least one worker of each role is ready and the router admits turns."""
    model: str
    model_id: str
    workers: tuple[WorkerStatus, ...]
    router: RouterStatus
