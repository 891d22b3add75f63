"""Turns a placement decision and its outcome into the explanation that clients get."""

from __future__ import annotations

from dataclasses import dataclass

from router.placement.estimate import Candidate, Decision
from router.placement.side import Exclusion, Side, TurnSize
from segue.api.explanation import CostLine, Explanation, WeighedCandidate, WorkerSpeed
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


def explanation_of(decided: Decided) -> Explanation:
    decision = decided.decision
    sides: dict[WorkerId, Side] = {}
    for candidate in decision.candidates:
        for side in (candidate.plan.side, candidate.target.side):
            sides.setdefault(side.worker_id, side)
    return Explanation(
        session_id=decided.session_id,
        turn_id=decided.turn_id,
        prompt_tokens=decided.size.prompt_tokens,
        max_tokens=decided.size.max_tokens,
        candidates=tuple(_weighed(one, decision.chosen) for one in decision.ranked()),
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
