"""What the router knows about each session. `release` forgets all of it.

That is its record (`record.py`); its messages up to the last turn; that turn's tokens; and the last
decision. The sizes of these parts differ a thousandfold, so each part has its own bound, beyond
which the least recently used sessions lose it. A lost or stale part only costs time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from cachetools import LRUCache

from router.placement.explain import Decided, explanation_of
from router.sessions.history import Completed, History, TurnTokens, history_after, num_rerendered
from router.sessions.record import SessionRecord
from segue.api.cluster.explanation import Explanation
from segue.api.cluster.status import SessionInfo
from segue.api.errors import NotFound
from segue.api.turn import FinishReason, TurnEnd
from segue.api.types import SessionId
from segue.text.session_prompt import PromptRecord

# Decisions to remember. One takes some kilobytes, a placement far less.
_MAX_EXPLAINED = 10_000
# Tokens of sessions' last turns, at about 8 bytes each: 500 sessions of 50,000 tokens.
_MAX_TOKENS = 25_000_000
# Sessions to remember for each start of a history. Many share a system message, and any will do.
_MAX_SESSIONS = 8

Value = TypeVar("Value")


class SessionTable:
    """One event loop owns it. A turn without a session leaves nothing here."""

    def __init__(self, *, max_sessions: int, history_bytes: int) -> None:
        self._placements = itertools.count(1)
        self._sessions: LRUCache[SessionId, SessionRecord] = LRUCache(max_sessions)
        self.histories = Histories(history_bytes)
        self._tokens: LRUCache[SessionId, TurnTokens] = LRUCache(_MAX_TOKENS, len)
        self._decided: LRUCache[SessionId, Decided] = LRUCache(_MAX_EXPLAINED)

    def __len__(self) -> int:
        """The number of listed sessions."""
        return len(self._sessions)

    def __contains__(self, session_id: SessionId) -> bool:
        return session_id in self._sessions

    @property
    def history_bytes(self) -> int:
        return int(self.histories.currsize)

    def of(self, session_id: SessionId) -> SessionRecord:
        """The session's record. An unknown session gets a new one, listed once it is placed."""
        return self._sessions.get(session_id) or SessionRecord(session_id=session_id)

    def page(
        self, after: int, max_sessions: int, scope: str = ""
    ) -> tuple[list[SessionInfo], int | None]:
        """At most `max_sessions` sessions with a placement number above `after` whose names start
        with `scope`, least recently placed first, and the next page's `after`; None after the last
        page. The first placement is 1.
        """
        # Reading all records, in order, does not change their LRU order.
        own = [session_id for session_id in self._sessions if session_id.startswith(scope)]
        records = [self._sessions[session_id] for session_id in own]
        found = [session for session in records if session.listed_as > after]
        shown = found[:max_sessions]
        last = shown[-1].listed_as if len(found) > max_sessions else None
        return [session.info() for session in shown], last

    def history(self, session_id: SessionId) -> History | None:
        return self.histories.get(session_id)

    def tokens(self, session_id: SessionId) -> TurnTokens | None:
        """The tokens of the session's last turn."""
        return self._tokens.get(session_id)

    def explain(self, session_id: SessionId) -> Explanation:
        """The session's last decision. Raises NotFound."""
        decided = self._decided.get(session_id)
        if decided is None:
            raise NotFound("no decision is remembered for this session: it has had no turn lately")
        return explanation_of(decided)

    def placed(self, session: SessionRecord, decided: Decided) -> None:
        """A turn of the session was placed."""
        if not session.session_id:
            return
        placement = decided.decision.placement
        session.prefill_worker = placement.prefill.worker_id
        session.decode_worker = placement.decode.worker_id
        self.add(session)
        self._decided[session.session_id] = decided

    def record(
        self,
        session: SessionRecord,
        completed: Completed,
        tokens: TurnTokens,
        memory: PromptRecord | None,
        end: TurnEnd,
    ) -> TurnEnd:
        """Records a turn that has ended. Returns `end`, with the usage and `kept_messages` added.

        `tokens` are the prompt and the answer. `memory` is the prompt's.
        """
        if not session.session_id:
            return end
        if end.finish_reason is not FinishReason.CANCELLED:
            # After a cancelled turn, workers report nothing: they keep the turn before it.
            _keep(self._tokens, session, tokens)
        history = history_after(completed, tokens.tokens, memory)
        if history is None:
            return end
        rerendered = num_rerendered(completed, history, tokens.num_shared)
        return replace(
            end,
            usage=replace(end.usage, rerendered_tokens=rerendered),
            kept_messages=len(history.digests) if _keep(self.histories, session, history) else 0,
        )

    def release(self, session_id: SessionId) -> bool:
        """Forgets everything about the session. Its running turns will not be recorded either.
        Returns whether it was known."""
        for part in (self.histories, self._tokens, self._decided):
            part.pop(session_id, None)
        session = self._sessions.pop(session_id, None)
        if session is not None:
            session.is_released = True
        return session is not None

    def fork_history(self, parent_id: SessionId, child_id: SessionId) -> None:
        """Copies the parent's messages to the child, if there are any."""
        if (history := self.histories.get(parent_id)) is not None:
            self.histories[child_id] = history

    def fork(self, parent_id: SessionId, child_id: SessionId) -> None:
        """Copies the parent's record and tokens to the child, which has no decision yet."""
        self.add(replace(self._sessions[parent_id], session_id=child_id))
        if (tokens := self._tokens.get(parent_id)) is not None:
            self._tokens[child_id] = tokens

    def drop(self, session_id: SessionId) -> None:
        """Unlists a session of which no worker keeps anything."""
        self._sessions.pop(session_id, None)

    def add(self, session: SessionRecord) -> None:
        # Popped first, so that the map's keys stay in the order of placement.
        self._sessions.pop(session.session_id, None)
        session.listed_as = next(self._placements)
        self._sessions[session.session_id] = session


def _keep(part: LRUCache[SessionId, Value], session: SessionRecord, value: Value) -> bool:
    """Replaces the session's value. Returns whether the new one is kept."""
    if session.is_released:
        return False
    try:
        part[session.session_id] = value
    except ValueError:
        # It exceeds the bound by itself. The old value goes too: it is an earlier turn's.
        part.pop(session.session_id, None)
        return False
    return True


class Histories(LRUCache[SessionId, History]):
    """The sessions' histories, bounded in bytes, and an index of the messages that they start
    with."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, History.size_bytes)
        self._sessions: dict[bytes, tuple[SessionId, ...]] = {}
        """By the salt of the pages and the digest, most recent last."""
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
        """The sessions whose histories share most leading messages with the chat that has these
        digests, most recent last, and the number of these messages. Considers sessions whose pages
        have this salt and whose names start with `scope`."""
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
