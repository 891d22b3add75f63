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
from collections.abc import Iterator, Sequence
from dataclasses import replace

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
        """The session that the chat continues, or a new one, which may be a fork. `chain` holds the
        chat's digests. `hint` is the client's name for the conversation: a client continues only
        its own sessions, and may fork any whose name starts with `scope` and whose pages have this
        salt.
        """
        num_same, sessions = self._table.histories.find(chain, salt, scope)
        name = scope + (hint or _UNNAMED)[: MAX_NAME_CHARS // 2]
        own = [one for one in sessions if one == name or one.startswith(name + _SEPARATOR)]
        for session_id in reversed(own):
            is_whole = len(self._table.histories[session_id].digests) == num_same
            if is_whole and session_id not in self._num_running:
                return session_id
        new = SessionId(name)
        if not hint or self._is_known(new):
            new = SessionId(f"{name}{_SEPARATOR}{secrets.token_hex(6)}")
        # Without a common answer, the chats share no more than any two conversations.
        if sessions and any(one.role == "assistant" for one in chat.messages[: num_same + 1]):
            parent = (own or sessions)[-1]
            self._table.fork_history(parent, new)
            if parent in self._table:
                self._table.fork(parent, new)
        return new

    def _is_known(self, session_id: SessionId) -> bool:
        table, running = self._table, self._num_running
        return session_id in table or session_id in table.histories or session_id in running

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
