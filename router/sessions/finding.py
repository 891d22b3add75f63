"""Finds the session that a chat continues, for clients that send the whole conversation each time.

A chat continues a session if its messages start with all of the session's history. If they start
with a part of it, or the session is running a turn, the chat gets a fork of the session: what
workers keep of the common part serves both.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache

from router.sessions.history import History
from segue.api.checks import MAX_NAME_CHARS
from segue.api.types import ChatInput, SessionId

# Sessions to remember for each history. Many share a system message, and any of them will do.
_MAX_SESSIONS = 8
_UNNAMED = "auto"
_SEPARATOR = "~"


class Histories(LRUCache[SessionId, History]):
    """The sessions' histories, bounded by their bytes, and an index of the messages they start
    with."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, History.size_bytes)
        self._sessions: dict[bytes, tuple[SessionId, ...]] = {}
        """By digest, the most recent last."""
        self._indexed: dict[SessionId, tuple[bytes, ...]] = {}

    def __setitem__(self, session_id: SessionId, history: History, *args: Any) -> None:
        """Raises ValueError if the history exceeds the bound by itself."""
        super().__setitem__(session_id, history, *args)
        self._index(session_id, history.digests)

    def __delitem__(self, session_id: SessionId, *args: Any) -> None:
        super().__delitem__(session_id, *args)
        self._index(session_id, ())

    def find(self, chain: Sequence[bytes]) -> tuple[int, tuple[SessionId, ...]]:
        """The most messages that the chat with these digests shares with a history from the start,
        and sessions with such histories, the most recent last."""
        for num in range(len(chain), 0, -1):
            if sessions := self._sessions.get(chain[num - 1]):
                return num, sessions
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


@dataclass(frozen=True, slots=True)
class FoundSession:
    """Where a chat goes on. A session with a parent is new, and a fork of it."""

    session_id: SessionId
    parent: SessionId | None = None


def choose_session(
    chat: ChatInput,
    hint: str,
    *,
    num_same: int,
    sessions: Sequence[SessionId],
    is_continued: Callable[[SessionId], bool],
    is_known: Callable[[SessionId], bool],
) -> FoundSession:
    """`sessions` share the chat's first `num_same` messages. `is_continued`: those are all of its
    history, and it runs no turn. `hint` is the client's name for the conversation: a client
    continues only its own sessions, and may fork any.
    """
    name = (hint or _UNNAMED)[: MAX_NAME_CHARS // 2]
    own = [one for one in sessions if one == name or one.startswith(name + _SEPARATOR)]
    for session_id in reversed(own):
        if is_continued(session_id):
            return FoundSession(session_id)
    new = SessionId(name)
    if not hint or is_known(new):
        new = SessionId(f"{name}{_SEPARATOR}{secrets.token_hex(6)}")
    # Without an answer in common, the chats share no more than other conversations do.
    if any(message.role == "assistant" for message in chat.messages[: num_same + 1]):
        return FoundSession(new, parent=(own or sessions)[-1])
    return FoundSession(new)
