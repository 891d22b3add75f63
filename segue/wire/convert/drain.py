"""Values to protobuf and back: drains, and sessions that move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from segue.api.checks import one_of, require_ascending, require_count
from segue.api.cluster.drain import (
    Adopted,
    DrainReport,
    HeldSession,
    LeftReason,
    MoveReport,
    require_prefixes,
)
from segue.api.prompt import PrefixName
from segue.api.types import SessionId
from segue.internal.v1 import transfer_pb2, worker_pb2
from segue.v1 import session_pb2 as pb
from segue.wire.convert.same_names import enum_tables, message_of, value_of

_REASON_TO_WIRE, _REASON_FROM_WIRE = enum_tables(
    pb.LeftReason, {reason: reason.name for reason in LeftReason}
)
_WHY = "the reason for which a session was left"


def drain_report_to_wire(report: DrainReport) -> pb.DrainReport:
    left = [
        pb.LeftSessions(reason=_REASON_TO_WIRE[reason], sessions=count)
        for reason, count in report.left.items()
    ]
    return message_of(pb.DrainReport, report, left=left)


def drain_report_from_wire(report: pb.DrainReport) -> DrainReport:
    """Raises InvalidRequest."""
    left = {one_of(_WHY, _REASON_FROM_WIRE, one.reason): one.sessions for one in report.left}
    return value_of(DrainReport, report, left=left)


def prefixes_to_wire(prefixes: Iterable[PrefixName]) -> list[transfer_pb2.PrefixName]:
    return [message_of(transfer_pb2.PrefixName, prefix) for prefix in prefixes]


def prefixes_from_wire(prefixes: Iterable[transfer_pb2.PrefixName]) -> tuple[PrefixName, ...]:
    """Raises InvalidRequest."""
    read = tuple(value_of(PrefixName, prefix) for prefix in prefixes)
    require_prefixes(read)
    return read


def held_to_wire(session: HeldSession) -> worker_pb2.HeldSession:
    return message_of(worker_pb2.HeldSession, session, prefixes=prefixes_to_wire(session.prefixes))


def held_from_wire(session: worker_pb2.HeldSession) -> HeldSession:
    """Raises InvalidRequest."""
    return value_of(HeldSession, session, prefixes=prefixes_from_wire(session.prefixes))


def moves_to_wire(report: MoveReport) -> worker_pb2.MoveSessionsResponse:
    return worker_pb2.MoveSessionsResponse(
        moved=[
            worker_pb2.MovedSession(session_id=session_id, moved_bytes=moved_bytes)
            for session_id, moved_bytes in report.moved.items()
        ],
        left=[
            worker_pb2.LeftSession(session_id=session_id, reason=_REASON_TO_WIRE[reason])
            for session_id, reason in report.left.items()
        ],
    )


def moves_from_wire(report: worker_pb2.MoveSessionsResponse) -> MoveReport:
    """Raises InvalidRequest."""
    return MoveReport(
        {SessionId(one.session_id): one.moved_bytes for one in report.moved},
        {
            SessionId(one.session_id): one_of(_WHY, _REASON_FROM_WIRE, one.reason)
            for one in report.left
        },
    )


def adopted_to_wire(adopted: Adopted) -> worker_pb2.AdoptResponse:
    return message_of(worker_pb2.AdoptResponse, adopted)


def adopted_from_wire(adopted: worker_pb2.AdoptResponse) -> Adopted:
    """Raises InvalidRequest."""
    require_count("kept_tokens", adopted.kept_tokens, low=1)
    states: Sequence[int] = adopted.kept_states
    require_ascending("kept_states", states, low=1, high=adopted.kept_tokens)
    return value_of(Adopted, adopted)
