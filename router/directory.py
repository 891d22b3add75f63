"""Which session lives where. Bounded: the longest unused session is forgotten first."""

from __future__ import annotations

import collections

from router.policy import Residence
from segue.types import SessionId


class SessionDirectory:
    def __init__(self, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._residences: collections.OrderedDict[SessionId, Residence] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._residences)

    def find(self, session_id: SessionId) -> Residence | None:
        return self._residences.get(session_id)

    def remember(self, session_id: SessionId, residence: Residence) -> None:
        self._residences[session_id] = residence
        self._residences.move_to_end(session_id)
        if len(self._residences) > self._max_sessions:
            self._residences.popitem(last=False)
