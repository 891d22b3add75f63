"""Values to protobuf and back: a worker's report of its cache."""

from __future__ import annotations

from segue.api.checks import MAX_SESSION_CHARS, require, require_name
from segue.api.cluster.kept import KeptChanges, KeptSession
from segue.api.prompt import DIGEST_BYTES
from segue.api.types import SessionId
from segue.internal.v1 import worker_pb2 as pb
from segue.wire.convert.same_names import message_of, value_of


def kept_to_wire(kept: KeptChanges) -> pb.KeptChanges:
    return pb.KeptChanges(
        with_state=b"".join(kept.with_state),
        without_state=b"".join(kept.without_state),
        gone=b"".join(kept.gone),
        sessions=[message_of(pb.KeptSession, one) for one in kept.sessions],
        ended=kept.ended,
    )


def kept_from_wire(kept: pb.KeptChanges) -> KeptChanges:
    """Raises InvalidRequest."""
    for name in (*(session.session_id for session in kept.sessions), *kept.ended):
        require_name("a kept session's session_id", name, max_chars=MAX_SESSION_CHARS)
    return KeptChanges(
        with_state=_digests("with_state", kept.with_state),
        without_state=_digests("without_state", kept.without_state),
        gone=_digests("gone", kept.gone),
        sessions=tuple([value_of(KeptSession, one) for one in kept.sessions]),
        ended=tuple([SessionId(name) for name in kept.ended]),
    )


def _digests(name: str, packed: bytes) -> tuple[bytes, ...]:
    require(
        len(packed) % DIGEST_BYTES == 0,
        f"{name} must have {DIGEST_BYTES} bytes for each digest, got {len(packed)} bytes",
    )
    return tuple([packed[at : at + DIGEST_BYTES] for at in range(0, len(packed), DIGEST_BYTES)])
