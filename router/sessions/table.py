"""What the router knows about each session. `release` forgets all of it.

That is where the session ran last and what workers keep of it; its messages up to the last turn;
that turn's tokens; and the last decision. The sizes of these parts differ a thousandfold, so each
part has its own bound, beyond which the least recently used sessions lose it. A lost or stale part
costs time and nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from cachetools import LRUCache

from router.placement.explain import Decided, explanation_of
from router.placement.node import WorkerNode
from router.placement.side import Held, Residency
from router.sessions.histories import Histories
from router.sessions.history import Completed, History, TurnTokens, history_after, num_rerendered
from segue.api.cluster.explanation import Explanation
from segue.api.cluster.status import SessionInfo, WorkerStatus
from segue.api.errors import NotFound
from segue.api.turn import FinishReason, TurnEnd
from segue.api.types import Epoch, Role, SessionId, WorkerId
from segue.text.session_prompt import PromptRecord

# Workers of each role to remember: a session that moves away and comes back finds what it left.
_MAX_WORKERS = 2
# Decisions to remember. One takes some kilobytes, a placement far less.
_MAX_EXPLAINED = 10_000
# Tokens of sessions' last turns, at about 8 bytes each: 500 sessions of 50,000 tokens.
_MAX_TOKENS = 25_000_000

_NOWHERE = WorkerId("")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What a worker keeps of a session, in one epoch."""

    worker_id: WorkerId
    epoch: Epoch
    tokens: int
    states: tuple[int, ...]
    """Lengths of the prefixes whose state is there, ascending."""

    @property
    def checkpoint_tokens(self) -> int:
        """The deepest state."""
        return max(self.states, default=0)

    def of_prompt(self, shared_tokens: int | None) -> Held:
        """What the worker holds of a prompt that shares this many tokens with the last turn."""
        if shared_tokens is None:
            return Held(self.tokens, self.checkpoint_tokens)
        usable = (state for state in self.states if state <= shared_tokens)
        return Held(min(self.tokens, shared_tokens), max(usable, default=0))


@dataclass(slots=True, kw_only=True, eq=False)
class SessionRecord:
    """Where a session ran last, and what workers keep of it, as they reported.

    A turn writes to the record that it started with. If the table does not list that record, or no
    longer does, the record is dropped with its turn.
    """

    session_id: SessionId
    prefill_worker: WorkerId = _NOWHERE
    decode_worker: WorkerId = _NOWHERE
    prefills: tuple[Keeping, ...] = ()
    """Most recent first, as in `decodes`."""
    decodes: tuple[Keeping, ...] = ()
    is_released: bool = False
    listed_as: int = 0
    """The number of the session's last placement. Ascends in the table's order."""

    @property
    def kept(self) -> Keeping | None:
        """What the last decode worker keeps: it holds the session's lease."""
        return self.decodes[0] if self.decodes else None

    def info(self) -> SessionInfo:
        kept = self.kept
        return SessionInfo(
            session_id=self.session_id,
            prefill_worker=self.prefill_worker,
            decode_worker=self.decode_worker,
            kept_tokens=kept.tokens if kept else 0,
            kept_checkpoint_tokens=kept.checkpoint_tokens if kept else 0,
        )

    def keep(self, worker: WorkerStatus, held: Held, states: tuple[int, ...] = ()) -> None:
        """The worker served a turn of the session.

        `states` are all the useful states that it keeps; if empty, only the deepest is known.
        """
        others = [k for k in self._keepings(worker.role) if k.worker_id != worker.worker_id]
        self._set(worker.role, (_keeping(worker, held, states), *others)[:_MAX_WORKERS])

    def diverged(self, shared_tokens: int) -> None:
        """The session's last turn shares only `shared_tokens` with the one before: what workers
        keep beyond that is of no use to the next turn."""
        for role in Role:
            self._set(role, tuple(_cut(k, shared_tokens) for k in self._keepings(role)))

    def correct(self, worker: WorkerStatus, held: Held) -> None:
        """The worker reported what it holds, without having completed a turn."""
        kept = (
            _corrected(keeping, worker, held) if keeping.worker_id == worker.worker_id else keeping
            for keeping in self._keepings(worker.role)
        )
        self._set(worker.role, tuple(kept))

    def held(
        self, nodes: Mapping[WorkerId, WorkerNode], shared_tokens: int | None = None
    ) -> Residency:
        """What live workers hold, if still in the same epoch, most recent first.

        `shared_tokens`: how many leading tokens a prompt shares with the last turn, if known. What
        is held beyond them is of no use to the prompt.
        """
        residency: dict[WorkerId, Held] = {}
        for keeping in (*self.decodes, *self.prefills):
            node = nodes.get(keeping.worker_id)
            if node is not None and node.status.epoch == keeping.epoch and not node.is_lost:
                residency[keeping.worker_id] = keeping.of_prompt(shared_tokens)
        return residency

    def _keepings(self, role: Role) -> tuple[Keeping, ...]:
        return self.prefills if role is Role.PREFILL else self.decodes

    def _set(self, role: Role, kept: tuple[Keeping, ...]) -> None:
        if role is Role.PREFILL:
            self.prefills = kept
        else:
            self.decodes = kept


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
        with `scope`, the least recently placed first, and the `after` of the next page; None if it
        is the last. The first placement is 1.
        """
        # Reads all records, so that reading does not change their LRU order.
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
            # After a cancelled turn, workers report nothing: what they keep is the turn before.
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
        """Forgets everything about the session; its running turns will record nothing either.
        Returns whether it was known."""
        for part in (self.histories, self._tokens, self._decided):
            part.pop(session_id, None)
        session = self._sessions.pop(session_id, None)
        if session is not None:
            session.is_released = True
        return session is not None

    def fork_history(self, parent_id: SessionId, child_id: SessionId) -> None:
        """Gives the child its parent's messages, if they are kept."""
        if (history := self.histories.get(parent_id)) is not None:
            self.histories[child_id] = history

    def fork(self, parent_id: SessionId, child_id: SessionId) -> None:
        """Gives the child its parent's record and tokens. It has no decision yet."""
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
        # It exceeds the bound by itself. The old value is dropped too: it is an earlier turn's.
        part.pop(session.session_id, None)
        return False
    return True


def _keeping(worker: WorkerStatus, held: Held, states: tuple[int, ...] = ()) -> Keeping:
    return Keeping(
        worker_id=worker.worker_id,
        epoch=worker.epoch,
        tokens=held.resident_tokens,
        states=states or ((held.checkpoint_tokens,) if held.checkpoint_tokens else ()),
    )


def _corrected(known: Keeping, worker: WorkerStatus, held: Held) -> Keeping:
    """A known state deeper than the prompt's deepest may belong to another prompt."""
    deepest = held.checkpoint_tokens
    shallower = tuple(state for state in known.states if state < deepest)
    return _keeping(worker, held, (*shallower, deepest) if deepest else ())


def _cut(keeping: Keeping, tokens: int) -> Keeping:
    states = tuple(state for state in keeping.states if state <= tokens)
    return replace(keeping, tokens=min(keeping.tokens, tokens), states=states)
