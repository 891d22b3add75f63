"""Values to protobuf and back: the explanation of a placement."""

from __future__ import annotations

from segue.api.checks import one_of
from segue.api.cluster.explanation import (
    CostLine,
    Explanation,
    RecentTurn,
    WeighedCandidate,
    WorkerSpeed,
)
from segue.api.types import WorkerId
from segue.v1 import session_pb2 as pb
from segue.wire.convert.events import end_from_wire, end_to_wire
from segue.wire.convert.same_names import enum_tables, message_of, value_of

_MODE_TO_WIRE, _MODE_FROM_WIRE = enum_tables(
    pb.CandidateMode, {mode: mode.upper() for mode in ("compute", "pull", "local")}
)
_EXCLUSIONS = ("speed", "memory", "avoided", "size", "not_ready")
_EXCLUDED_TO_WIRE, _EXCLUDED_FROM_WIRE = enum_tables(
    pb.Exclusion, {"": "UNSPECIFIED", **{reason: reason.upper() for reason in _EXCLUSIONS}}
)
_LINES = ("compute", "link", "step")


def explanation_to_wire(explanation: Explanation) -> pb.Explanation:
    return message_of(
        pb.Explanation,
        explanation,
        candidates=[candidate_to_wire(one) for one in explanation.candidates],
        speeds=[message_of(pb.WorkerSpeed, one) for one in explanation.speeds],
    )


def explanation_from_wire(explanation: pb.Explanation) -> Explanation:
    """Raises InvalidRequest for a mode or an exclusion that only a later version knows."""
    return value_of(
        Explanation,
        explanation,
        candidates=tuple(candidate_from_wire(one) for one in explanation.candidates),
        speeds=tuple(_speed_from_wire(one) for one in explanation.speeds),
    )


def candidate_to_wire(one: WeighedCandidate) -> pb.Candidate:
    return message_of(
        pb.Candidate,
        one,
        mode=_MODE_TO_WIRE[one.mode],
        excluded=_EXCLUDED_TO_WIRE[one.excluded],
        source_worker=one.source_worker or "",
    )


def candidate_from_wire(one: pb.Candidate) -> WeighedCandidate:
    return value_of(
        WeighedCandidate,
        one,
        mode=one_of("mode", _MODE_FROM_WIRE, one.mode),
        excluded=one_of("excluded", _EXCLUDED_FROM_WIRE, one.excluded),
        source_worker=WorkerId(one.source_worker) if one.source_worker else None,
    )


def recent_to_wire(turn: RecentTurn) -> pb.RecentTurn:
    return message_of(
        pb.RecentTurn,
        turn,
        explanation=explanation_to_wire(turn.explanation),
        end=None if turn.end is None else end_to_wire(turn.end),
    )


def recent_from_wire(turn: pb.RecentTurn) -> RecentTurn:
    """Raises InvalidRequest for values that only a later version knows."""
    return value_of(
        RecentTurn,
        turn,
        explanation=explanation_from_wire(turn.explanation),
        end=end_from_wire(turn.end) if turn.HasField("end") else None,
    )


def _speed_from_wire(one: pb.WorkerSpeed) -> WorkerSpeed:
    lines = {name: value_of(CostLine, getattr(one, name)) for name in _LINES}
    return value_of(WorkerSpeed, one, **lines)
