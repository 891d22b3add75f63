"""Explains a turn's placement to a client: the candidates, and the outcome."""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.turn import TurnEnd
from segue.api.types import SessionId, TurnId, WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class WeighedCandidate:
    """One way to run the turn, with the parts of its expected time to first token."""

    mode: str
    """compute, pull or local."""
    prefill_worker: WorkerId
    decode_worker: WorkerId
    source_worker: WorkerId | None = None
    """The worker that has the prefix, in mode pull."""
    chosen: bool = False
    excluded: str = ""
    """Why it was ranked last: speed, memory, avoided, size or not_ready. Empty if it was not."""
    computed_tokens: int = 0
    moved_tokens: int = 0
    queue_s: float = 0.0
    pull_s: float = 0.0
    compute_s: float = 0.0
    move_s: float = 0.0
    hidden_s: float = 0.0
    """The part of the move that overlaps with compute, negated."""
    interference_s: float = 0.0
    """The delay for the decode worker's other turns."""
    overhead_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine:
    """fixed + per_unit * units, in seconds."""

    fixed: float
    per_unit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpeed:
    """The estimate of a worker's speed at the time of the decision."""

    worker_id: WorkerId
    compute: CostLine
    """A prefill, as a function of computed tokens."""
    link: CostLine
    """A transfer, as a function of bytes."""
    step: CostLine
    """A decode step, as a function of running turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The last decision of a session."""

    session_id: SessionId
    turn_id: TurnId
    prompt_tokens: int
    max_tokens: int
    candidates: tuple[WeighedCandidate, ...]
    """The best first, the excluded last."""
    speeds: tuple[WorkerSpeed, ...]
    """The speed of every worker among the candidates."""
    decision_s: float
    estimated_s: float
    """The chosen candidate's expected time from the decision to the first token at the router."""
    actual_s: float | None = None
    """None until the turn has its first token."""

    @property
    def chosen(self) -> WeighedCandidate:
        return next(candidate for candidate in self.candidates if candidate.chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentTurn:
    """A running or recently ended turn, and the reason for its placement."""

    explanation: Explanation
    """Its last placement, with only the best candidates and the chosen one."""
    num_candidates: int
    """The number of candidates that were considered."""
    age_s: float
    """Since the router received it."""
    outcome: str
    """running, a finish reason, disconnected, deadline, or the class of the error."""
    end: TurnEnd | None = None
    """None while it runs, if it failed, or if its client left."""
