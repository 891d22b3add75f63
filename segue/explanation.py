"""Why a turn was placed where it was, as a client sees it: what was weighed, what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from segue.types import SessionId, TurnId, WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class WeighedCandidate:
    """One way to run the turn, with the parts of its expected time to first token."""

    mode: str
    """compute, pull or local."""
    prefill_worker: WorkerId
    decode_worker: WorkerId
    source_worker: WorkerId | None = None
    """Of mode pull: who has the prefix."""
    chosen: bool = False
    excluded: str = ""
    """Why it came last: speed, memory, avoided, size or not_ready. Empty: it did not."""
    computed_tokens: int = 0
    moved_tokens: int = 0
    queue_s: float = 0.0
    pull_s: float = 0.0
    compute_s: float = 0.0
    move_s: float = 0.0
    hidden_s: float = 0.0
    """Of the move, what runs under compute: not positive."""
    interference_s: float = 0.0
    """What the decode worker's other turns lose."""
    overhead_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine:
    """fixed + per_unit * units, in seconds."""

    fixed: float
    per_unit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpeed:
    """What was known of a worker when the decision was made."""

    worker_id: WorkerId
    compute: CostLine
    """A prefill, over computed tokens."""
    link: CostLine
    """A transfer, over bytes."""
    step: CostLine
    """A decode step, over running turns."""


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
    """Of every worker among the candidates."""
    decision_s: float
    estimated_s: float
    """From the decision to the first token at the router, as expected of the chosen candidate."""
    actual_s: float | None = None
    """None until the turn has its first token."""

    @property
    def chosen(self) -> WeighedCandidate:
        return next(candidate for candidate in self.candidates if candidate.chosen)
