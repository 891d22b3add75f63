"""Which session lives where. Bounded: the longest unused session is forgotten first."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass

from router.policy import Residence
from segue.types import (
    Epoch,
    PrefixHolder,
    SessionId,
    SessionInfo,
    WorkerHealth,
    WorkerId,
    WorkerStatus,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What a decode worker said that it keeps of a session when its last turn ended."""

    worker_id: WorkerId
    epoch: Epoch
    tokens: int
    checkpoint_tokens: int


class SessionDirectory:
    def __init__(self, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._residences: collections.OrderedDict[SessionId, Residence] = collections.OrderedDict()
        self._keepings: dict[SessionId, Keeping] = {}

    def __len__(self) -> int:
        return len(self._residences)

    def find(self, session_id: SessionId) -> Residence | None:
        return self._residences.get(session_id)

    def remember(self, session_id: SessionId, residence: Residence) -> None:
        if not session_id:
            return
        self._residences[session_id] = residence
        self._residences.move_to_end(session_id)
        if len(self._residences) > self._max_sessions:
            forgotten, _ = self._residences.popitem(last=False)
            self._keepings.pop(forgotten, None)

    def forget(self, session_id: SessionId) -> bool:
        """Whether it was known."""
        self._keepings.pop(session_id, None)
        return self._residences.pop(session_id, None) is not None

    def fork(self, parent_id: SessionId, child_id: SessionId) -> None:
        """The child begins where its parent is."""
        self.remember(child_id, self._residences[parent_id])
        if parent_id in self._keepings:
            self.keep(child_id, self._keepings[parent_id])

    def sessions(self) -> list[SessionInfo]:
        """The longest unused first."""
        return [self._info(session_id) for session_id in self._residences]

    def _info(self, session_id: SessionId) -> SessionInfo:
        residence, keeping = self._residences[session_id], self._keepings.get(session_id)
        return SessionInfo(
            session_id=session_id,
            prefill_worker=residence.prefill,
            decode_worker=residence.decode,
            kept_tokens=keeping.tokens if keeping else 0,
            kept_checkpoint_tokens=keeping.checkpoint_tokens if keeping else 0,
        )

    def kept(self, session_id: SessionId) -> Keeping | None:
        return self._keepings.get(session_id)

    def keep(self, session_id: SessionId, keeping: Keeping) -> None:
        """Of a session that was placed."""
        if session_id in self._residences:
            self._keepings[session_id] = keeping


def longest_holder(
    decode: WorkerStatus,
    checkpoint_tokens: int,
    kept: Keeping | None,
    workers: Sequence[WorkerStatus],
) -> PrefixHolder | None:
    """Who has a state for the longest prefix of a session: the decode worker that the turn goes to
    (it says so itself), or the one of the last turn, if that is still the same life.
    """
    candidates = [(checkpoint_tokens, decode)]
    if kept is not None and kept.worker_id != decode.worker_id:
        candidates += [
            (kept.checkpoint_tokens, worker)
            for worker in workers
            if (worker.worker_id, worker.epoch) == (kept.worker_id, kept.epoch)
            and worker.health is not WorkerHealth.LOST
        ]
    tokens, worker = max(candidates, key=lambda candidate: candidate[0])
    if tokens == 0:
        return None
    return PrefixHolder(
        worker_id=worker.worker_id,
        epoch=worker.epoch,
        address=worker.address,
        checkpoint_tokens=tokens,
    )
