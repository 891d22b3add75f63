"""The kept histories, and which sessions have a history that starts with the same messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cachetools import LRUCache

from router.sessions.history import History
from segue.api.types import SessionId

# Sessions to remember for each history. Many share a system message, and any of them will do.
_MAX_SESSIONS = 8


class Histories(LRUCache[SessionId, History]):
    """The sessions' histories, bounded by their bytes, and an index of the messages they start
    with."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, History.size_bytes)
        self._sessions: dict[bytes, tuple[SessionId, ...]] = {}
        """By the salt of the pages and the digest, the most recent last."""
        self._indexed: dict[SessionId, tuple[bytes, ...]] = {}

    def __setitem__(self, session_id: SessionId, history: History, *args: Any) -> None:
        """Raises ValueError if the history exceeds the bound by itself."""
        super().__setitem__(session_id, history, *args)
        salt, digests = history.tokens.salt, history.digests
        self._index(session_id, tuple([salt + one for one in digests]) if salt else digests)

    def __delitem__(self, session_id: SessionId, *args: Any) -> None:
        super().__delitem__(session_id, *args)
        self._index(session_id, ())

    def find(
        self, chain: Sequence[bytes], salt: bytes = b"", scope: str = ""
    ) -> tuple[int, tuple[SessionId, ...]]:
        """The most messages that the chat with these digests shares with a history from the start,
        among those whose pages have this salt and whose sessions' names start with `scope`, and
        these sessions, the most recent last."""
        for num in range(len(chain), 0, -1):
            sessions = self._sessions.get(salt + chain[num - 1], ())
            # Tenants that share prefixes have the same salt.
            if own := tuple([one for one in sessions if one.startswith(scope)]):
                return num, own
        return 0, ()

    def _index(self, session_id: SessionId, digests: tuple[bytes, ...]) -> None:
        before = self._indexed.pop(session_id, ())
        # Usually a history only grows.
        num_same = len(before) if digests[: len(before)] == before else 0
        for digest in before[num_same:]:
            others = tuple(one for one in self._sessions.get(digest, ()) if one != session_id)
            if others:
                self._sessions[digest] = others
            else:
                self._sessions.pop(digest, None)
        for digest in digests[num_same:]:
            sessions = (*self._sessions.get(digest, ()), session_id)
            self._sessions[digest] = sessions[-_MAX_SESSIONS:]
        if digests:
            self._indexed[session_id] = digests
