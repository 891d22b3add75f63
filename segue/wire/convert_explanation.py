"""Values to protobuf and back: the explanation of a placement."""

from __future__ import annotations

from typing import TypedDict

from segue.checks import one_of
from segue.explanation import CostLine, Explanation, WeighedCandidate, WorkerSpeed
from segue.types import SessionId, TurnId, WorkerId
from segue.v1 import session_pb2 as pb

_MODE_TO_WIRE = {
    "compute": pb.CANDIDATE_MODE_COMPUTE,
    "pull": pb.CANDIDATE_MODE_PULL,
    "local": pb.CANDIDATE_MODE_LOCAL,
}
_MODE_FROM_WIRE = {wire: mode for mode, wire in _MODE_TO_WIRE.items()}
_EXCLUDED_TO_WIRE = {
    "": pb.EXCLUSION_UNSPECIFIED,
    "speed": pb.EXCLUSION_SPEED,
    "memory": pb.EXCLUSION_MEMORY,
    "avoided": pb.EXCLUSION_AVOIDED,
    "size": pb.EXCLUSION_SIZE,
    "not_ready": pb.EXCLUSION_NOT_READY,
}
_EXCLUDED_FROM_WIRE = {wire: excluded for excluded, wire in _EXCLUDED_TO_WIRE.items()}


def explanation_to_wire(explanation: Explanation) -> pb.Explanation:
    return pb.Explanation(
        session_id=explanation.session_id,
        turn_id=explanation.turn_id,
        prompt_tokens=explanation.prompt_tokens,
        max_tokens=explanation.max_tokens,
        candidates=[candidate_to_wire(one) for one in explanation.candidates],
        speeds=[_speed_to_wire(one) for one in explanation.speeds],
        decision_s=explanation.decision_s,
        estimated_s=explanation.estimated_s,
        actual_s=explanation.actual_s,
    )


def explanation_from_wire(explanation: pb.Explanation) -> Explanation:
    """Raises InvalidRequest for a mode or an exclusion that only a later version knows."""
    return Explanation(
        session_id=SessionId(explanation.session_id),
        turn_id=TurnId(explanation.turn_id),
        prompt_tokens=explanation.prompt_tokens,
        max_tokens=explanation.max_tokens,
        candidates=tuple(candidate_from_wire(one) for one in explanation.candidates),
        speeds=tuple(_speed_from_wire(one) for one in explanation.speeds),
        decision_s=explanation.decision_s,
        estimated_s=explanation.estimated_s,
        actual_s=explanation.actual_s if explanation.HasField("actual_s") else None,
    )


def candidate_to_wire(one: WeighedCandidate) -> pb.Candidate:
    return pb.Candidate(
        mode=_MODE_TO_WIRE[one.mode],
        excluded=_EXCLUDED_TO_WIRE[one.excluded],
        prefill_worker=one.prefill_worker,
        decode_worker=one.decode_worker,
        source_worker=one.source_worker or "",
        **_estimate(one),
    )


def candidate_from_wire(one: pb.Candidate) -> WeighedCandidate:
    return WeighedCandidate(
        mode=one_of("mode", _MODE_FROM_WIRE, one.mode),
        excluded=one_of("excluded", _EXCLUDED_FROM_WIRE, one.excluded),
        prefill_worker=WorkerId(one.prefill_worker),
        decode_worker=WorkerId(one.decode_worker),
        source_worker=WorkerId(one.source_worker) if one.source_worker else None,
        **_estimate(one),
    )


class _Estimate(TypedDict):
    chosen: bool
    computed_tokens: int
    moved_tokens: int
    queue_s: float
    pull_s: float
    compute_s: float
    move_s: float
    hidden_s: float
    interference_s: float
    overhead_s: float
    total_s: float


def _estimate(one: WeighedCandidate | pb.Candidate) -> _Estimate:
    """The fields that are the same on both sides."""
    return {
        "chosen": one.chosen,
        "computed_tokens": one.computed_tokens,
        "moved_tokens": one.moved_tokens,
        "queue_s": one.queue_s,
        "pull_s": one.pull_s,
        "compute_s": one.compute_s,
        "move_s": one.move_s,
        "hidden_s": one.hidden_s,
        "interference_s": one.interference_s,
        "overhead_s": one.overhead_s,
        "total_s": one.total_s,
    }


def _speed_to_wire(one: WorkerSpeed) -> pb.WorkerSpeed:
    return pb.WorkerSpeed(
        worker_id=one.worker_id,
        compute=_line_to_wire(one.compute),
        link=_line_to_wire(one.link),
        step=_line_to_wire(one.step),
    )


def _speed_from_wire(one: pb.WorkerSpeed) -> WorkerSpeed:
    return WorkerSpeed(
        worker_id=WorkerId(one.worker_id),
        compute=_line_from_wire(one.compute),
        link=_line_from_wire(one.link),
        step=_line_from_wire(one.step),
    )


def _line_to_wire(line: CostLine) -> pb.CostLine:
    return pb.CostLine(fixed=line.fixed, per_unit=line.per_unit)


def _line_from_wire(line: pb.CostLine) -> CostLine:
    return CostLine(fixed=line.fixed, per_unit=line.per_unit)
