"""Converts a placement and its outcome to the explanation that clients get, and to the observation
that placement learns from.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.placement.cluster import Seat
from router.placement.coefficients import Observation
from router.placement.estimate import Candidate, Decision
from router.placement.side import Exclusion, Side, TurnSize
from segue.api.cluster.explanation import CostLine, Explanation, WeighedCandidate, WorkerSpeed
from segue.api.turn import TurnResult
from segue.api.types import SessionId, TurnId, WorkerId
from segue.cost_line import Line


@dataclass(slots=True)
class Decided:
    session_id: SessionId
    turn_id: TurnId
    size: TurnSize
    decision: Decision
    decision_s: float
    actual_s: float | None = None
    """From the decision to the first token."""


@dataclass(slots=True)
class Attempt:
    """One placement of a turn, and its outcome."""

    decided: Decided
    seat: Seat
    placed_at: float
    held_tokens: int
    """The longest prefix that a worker could resume from."""
    source: WorkerId | None = None
    """The worker to pull a prefix from."""


def explanation_of(decided: Decided, most: int | None = None) -> Explanation:
    """`most`: the number of best candidates to explain, besides the chosen one; None for all."""
    decision = decided.decision
    ranked = decision.ranked(most)
    sides: dict[WorkerId, Side] = {}
    for candidate in ranked:
        for side in (candidate.plan.side, candidate.target.side):
            sides.setdefault(side.worker_id, side)
    return Explanation(
        session_id=decided.session_id,
        turn_id=decided.turn_id,
        prompt_tokens=decided.size.prompt_tokens,
        max_tokens=decided.size.max_tokens,
        candidates=tuple(_weighed(one, decision.chosen) for one in ranked),
        speeds=tuple(_speed(side) for _, side in sorted(sides.items())),
        decision_s=decided.decision_s,
        estimated_s=decision.chosen.total_s,
        actual_s=decided.actual_s,
    )


def _weighed(one: Candidate, chosen: Candidate) -> WeighedCandidate:
    parts = {f"{name}_s": seconds for name, seconds in one.parts().items()}
    return WeighedCandidate(
        mode=one.mode.value,
        prefill_worker=one.prefill,
        decode_worker=one.decode,
        source_worker=one.source,
        chosen=one is chosen,
        excluded="" if one.excluded is Exclusion.NONE else one.excluded.name.lower(),
        computed_tokens=one.plan.computed_tokens,
        moved_tokens=one.target.moved_tokens,
        total_s=one.total_s,
        **parts,
    )


def _speed(side: Side) -> WorkerSpeed:
    return WorkerSpeed(
        worker_id=side.worker_id,
        compute=_line(side.speed.compute),
        link=_line(side.speed.link),
        step=_line(side.speed.step),
    )


def _line(line: Line) -> CostLine:
    return CostLine(fixed=line.fixed, per_unit=line.per_unit)


def observation_of(attempt: Attempt, size: TurnSize, result: TurnResult) -> Observation:
    usage, report, seat = result.usage, result.report, attempt.seat
    is_shipped = report.shipped_bytes > 0
    return Observation(
        prefill=seat.prefill.worker_id,
        decode=seat.decode.worker_id,
        computed_tokens=report.computed_tokens,
        shipped_tokens=size.prompt_tokens - usage.resident_tokens if is_shipped else 0,
        shipped_bytes=report.shipped_bytes,
        queue_s=report.queue_s,
        prefill_s=report.prefill_s,
        transfer_s=report.transfer_s,
        exposed_transfer_s=report.exposed_transfer_s,
        pulled_from=attempt.source if report.pulled_bytes else None,
        pulled_bytes=report.pulled_bytes,
        pull_s=report.pull_s,
        placed_to_first_token_s=attempt.decided.actual_s or 0.0,
        completion_tokens=usage.completion_tokens,
        decode_s=result.decode_s,
        running_turns=seat.decode.running_turns,
    )
