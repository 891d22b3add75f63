"""Finds the session that a chat continues, for clients that always send the whole conversation.

A chat continues a session if its messages start with the session's whole history. If they start
with part of it, or the session is running a turn, the chat gets a fork of the session: both use
what workers keep of the common part.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from router.sessions.table import SessionTable
from router.tenants.tenant import Tenant
from segue.api.checks import MAX_NAME_CHARS
from segue.api.history import digests
from segue.api.types import ChatInput, SessionId, TurnRequest
from segue.text.limits import SizeLimits, num_characters

# Above this, a request's digests are computed in a thread: more than about a millisecond.
_LONG_CHARACTERS = 500_000
_UNNAMED = "auto"
_SEPARATOR = "~"


@dataclass(frozen=True, slots=True)
class FoundSession:
    """The session of a chat. If it has a parent, it is a new fork of it."""

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
    scope: str = "",
) -> FoundSession:
    """`sessions` share the chat's first `num_same` messages. `is_continued`: whether those are the
    session's whole history, and it runs no turn. `hint` is the client's name for the conversation:
    a client continues only its own sessions, and may fork any. `scope` is the prefix of its
    tenant's session names.
    """
    name = scope + (hint or _UNNAMED)[: MAX_NAME_CHARS // 2]
    own = [one for one in sessions if one == name or one.startswith(name + _SEPARATOR)]
    for session_id in reversed(own):
        if is_continued(session_id):
            return FoundSession(session_id)
    new = SessionId(name)
    if not hint or is_known(new):
        new = SessionId(f"{name}{_SEPARATOR}{secrets.token_hex(6)}")
    # Without a common answer, the chats share no more than any two conversations.
    if sessions and any(message.role == "assistant" for message in chat.messages[: num_same + 1]):
        return FoundSession(new, parent=(own or sessions)[-1])
    return FoundSession(new)


class SessionFinder:
    """Finds sessions, and knows which ones run a turn."""

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._num_running: Counter[SessionId] = Counter()

    async def named(self, request: TurnRequest, tenant: Tenant, limits: SizeLimits) -> TurnRequest:
        """The request with the session that its chat continues, if the client did not name one.
        Raises InvalidRequest if the input is too large."""
        if request.session_hint is None or request.session_id:
            return request
        chat, hint = request.input, request.session_hint
        session_id = tenant.owned(SessionId(hint))
        if isinstance(chat, ChatInput):
            limits.validate(chat, 0)
            is_long = num_characters(chat) > _LONG_CHARACTERS
            chain = await asyncio.to_thread(digests, chat) if is_long else digests(chat)
            session_id = self.find(chat, chain, hint, scope=tenant.scope, salt=request.salt)
        return replace(request, session_id=session_id, session_hint=None)

    def find(
        self,
        chat: ChatInput,
        chain: Sequence[bytes],
        hint: str,
        *,
        scope: str = "",
        salt: bytes = b"",
    ) -> SessionId:
        """The session that the chat continues, among those whose names start with `scope` and whose
        pages have this salt, or a new one. `chain` holds the chat's digests.
        """
        num_same, sessions = self._table.histories.find(chain, salt, scope)
        found = choose_session(
            chat,
            hint,
            num_same=num_same,
            sessions=sessions,
            is_continued=lambda session_id: (
                len(self._table.histories[session_id].digests) == num_same
                and session_id not in self._num_running
            ),
            is_known=lambda session_id: (
                session_id in self._table
                or session_id in self._table.histories
                or session_id in self._num_running
            ),
            scope=scope,
        )
        if found.parent is not None:
            self._table.fork_history(found.parent, found.session_id)
            if found.parent in self._table:
                self._table.fork(found.parent, found.session_id)
        return found.session_id

    @contextlib.contextmanager
    def running(self, session_id: SessionId) -> Iterator[None]:
        """Within the block, a turn of the session runs: `find` does not return it."""
        self._num_running[session_id] += 1
        try:
            yield
        finally:
            self._num_running[session_id] -= 1
            if not self._num_running[session_id]:
                del self._num_running[session_id]
