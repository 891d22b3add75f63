"""Drains and moves of sessions survive the wire, and wrong ones are refused."""

from __future__ import annotations

import pytest

from segue.api.cluster.drain import (
    MAX_PREFIXES,
    Adopted,
    DrainReport,
    HeldSession,
    LeftReason,
    MoveReport,
)
from segue.api.errors import InvalidRequest
from segue.api.prompt import PrefixName
from segue.api.types import SessionId
from segue.internal.v1 import worker_pb2
from segue.v1 import session_pb2 as pb
from segue.wire.convert.drain import (
    adopted_from_wire,
    adopted_to_wire,
    drain_report_from_wire,
    drain_report_to_wire,
    held_from_wire,
    held_to_wire,
    moves_from_wire,
    moves_to_wire,
)

PREFIXES = (PrefixName(16, bytes(16)), PrefixName(48, bytes(range(16))))


def test_a_report_survives_the_wire_with_every_reason() -> None:
    report = DrainReport(
        ended_turns=1,
        moved_turns=2,
        moved_sessions=3,
        moved_bytes=4_000_000_000_000,
        left={reason: 5 + number for number, reason in enumerate(LeftReason)},
    )
    assert drain_report_from_wire(drain_report_to_wire(report)) == report


def test_moves_survive_the_wire() -> None:
    report = MoveReport(
        {SessionId("acme/a"): 7, SessionId("b"): 0},
        {SessionId(f"s{reason.name}"): reason for reason in LeftReason},
    )
    assert moves_from_wire(moves_to_wire(report)) == report


def test_a_held_session_and_an_adopted_one_survive_the_wire() -> None:
    held = HeldSession(session_id=SessionId("acme/a"), prefixes=PREFIXES, expires_in_s=12.5)
    adopted = Adopted(kept_tokens=48, kept_states=(16, 48), moved_bytes=9)

    assert held_from_wire(held_to_wire(held)) == held
    assert adopted_from_wire(adopted_to_wire(adopted)) == adopted


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"session_id": ""}, "session_id must not be empty"),
        ({"session_id": "x" * 513}, "session_id must have at most 512 characters"),
        ({"expires_in_s": float("nan")}, "expires_in_s must be between"),
        ({"expires_in_s": -1.0}, "expires_in_s must be between"),
    ],
)
def test_a_wrong_session_is_refused(changed: dict[str, object], message: str) -> None:
    held = HeldSession(session_id=SessionId("a"), prefixes=PREFIXES, expires_in_s=1.0)
    wire = held_to_wire(held)
    for name, value in changed.items():
        setattr(wire, name, value)
    with pytest.raises(InvalidRequest, match=message):
        held_from_wire(wire)


@pytest.mark.parametrize(
    "lengths", [(), (48, 16), (16, 16), tuple(range(1, MAX_PREFIXES + 2)), (0,)]
)
def test_wrong_prefixes_are_refused(lengths: tuple[int, ...]) -> None:
    wire = worker_pb2.HeldSession(session_id="a")
    for num_tokens in lengths:
        wire.prefixes.add(num_tokens=num_tokens, digest=bytes(16))
    with pytest.raises(InvalidRequest):
        held_from_wire(wire)


def test_an_unknown_reason_and_wrong_states_are_refused() -> None:
    report = pb.DrainReport(left=[pb.LeftSessions(reason=99, sessions=1)])  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="the reason for which a session was left must be"):
        drain_report_from_wire(report)
    for states in ((48, 16), (64,)):
        with pytest.raises(InvalidRequest, match="kept_states must be"):
            adopted_from_wire(worker_pb2.AdoptResponse(kept_tokens=48, kept_states=states))
    with pytest.raises(InvalidRequest, match="kept_tokens must be between 1"):
        adopted_from_wire(worker_pb2.AdoptResponse())
