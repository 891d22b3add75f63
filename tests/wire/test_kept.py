"""What a worker keeps survives the wire, and a malformed report is refused."""

from __future__ import annotations

import pytest

from segue.api.cluster.kept import KeptChanges, KeptSession
from segue.api.errors import InvalidRequest
from segue.api.types import SessionId
from segue.internal.v1 import worker_pb2 as pb
from segue.wire.convert.kept import kept_from_wire, kept_to_wire

ONE, TWO, THREE = (bytes([number]) * 16 for number in (1, 2, 3))
CHANGES = KeptChanges(
    with_state=(ONE, TWO),
    without_state=(THREE,),
    gone=(TWO,),
    sessions=(KeptSession(SessionId("acme/s"), 96, 80),),
    ended=(SessionId("acme/t"),),
)


@pytest.mark.parametrize("changes", [CHANGES, KeptChanges()])
def test_changes_survive_the_wire(changes: KeptChanges) -> None:
    sent = kept_to_wire(changes).SerializeToString()

    assert kept_from_wire(pb.KeptChanges.FromString(sent)) == changes


def test_ten_thousand_prefixes_and_a_thousand_sessions_are_small() -> None:
    digests = tuple(number.to_bytes(16, "little") for number in range(10_000))
    sessions = tuple(KeptSession(SessionId(f"acme/{i:032x}"), 50_000, 49_984) for i in range(1_000))

    size = kept_to_wire(KeptChanges(with_state=digests, sessions=sessions)).ByteSize()

    assert size < 10_000 * 16 + 1_000 * 60


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        (pb.KeptChanges(with_state=b"x" * 17), "with_state must have 16 bytes for each digest"),
        (pb.KeptChanges(gone=b"x"), "gone must have 16 bytes"),
        (pb.KeptChanges(sessions=[pb.KeptSession()]), "session_id must not be empty"),
        (pb.KeptChanges(ended=["a\nb"]), "session_id must be printable"),
        (pb.KeptChanges(ended=["s" * 513]), "at most 512 characters"),
    ],
)
def test_a_malformed_report_is_refused(kept: pb.KeptChanges, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        kept_from_wire(kept)
