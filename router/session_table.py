"""What the router knows of each session. One record a session, which `release` forgets whole.

A record is where the session ran last and what workers keep of it; what was said up to the last
turn; that turn's tokens; and the last decision. The parts differ in size a thousandfold, so each
has a bound of its own, beyond which the least recently used sessions lose that part. What is lost
or stale costs time and nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from cachetools import LRUCache

from router.explain import Decided, explanation_of
from router.history import Completed, History, TurnTokens, history_after, num_rerendered
from router.placement.node import Node
from router.placement.side import Held, Residency
from segue.cluster_status import SessionInfo, WorkerStatus
from segue.errors import NotFound
from segue.explanation import Explanation
from segue.text.session_prompt import PromptMemory
from segue.turn import FinishReason, TurnEnd
from segue.types import Epoch, Role, SessionId, WorkerId

# Of each role: a session that moves away and comes back finds what it left.
_MAX_WORKERS = 2
# A decision is some kilobytes, a placement far less.
_MAX_EXPLAINED = 10_000
# Of sessions' last turns, at about 8 bytes: 500 sessions of 50,000.
_MAX_TOKENS = 25_000_000

_NOWHERE = WorkerId("")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What one life of a worker keeps of a session."""

    worker_id: WorkerId
    epoch: Epoch
    tokens: int
    states: tuple[int, ...]
    """Prefixes whose state is there, ascending."""

    @property
    def checkpoint_tokens(self) -> int:
        """The deepest of them."""
        return max(self.states, default=0)

    def of_prompt(self, shared_tokens: int | None) -> Held:
        """What the worker has of a prompt that equals the session's last turn up to there."""
        if shared_tokens is None:
            return Held(self.tokens, self.checkpoint_tokens)
        usable = (state for state in self.states if state <= shared_tokens)
        return Held(min(self.tokens, shared_tokens), max(usable, default=0))


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """Where a session ran last, and what workers said that they keep of it.

    Turns write to the record that they started with. A record that the table does not list, or no
    longer lists, takes what is written and is forgotten with its turn.
    """

    session_id: SessionId
    prefill_worker: WorkerId = _NOWHERE
    decode_worker: WorkerId = _NOWHERE
    prefills: tuple[Keeping, ...] = ()
    """The last one first, as in `decodes`."""
    decodes: tuple[Keeping, ...] = ()
    is_released: bool = False
    listed_as: int = 0
    """The number of the last placement, of all that the table lists: ascends in it."""

    @property
    def kept(self) -> Keeping | None:
        """What the decode worker keeps that answered last: the session's lease is there."""
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

        `states` are all that it keeps and that may be of use; else only the deepest is known.
        """
        others = [k for k in self._keepings(worker.role) if k.worker_id != worker.worker_id]
        self._set(worker.role, (_keeping(worker, held, states), *others)[:_MAX_WORKERS])

    def parted(self, shared_tokens: int) -> None:
        """The session's last turn shares only so much with what it was before: whatever workers
        keep beyond that is of no use to a next turn."""
        for role in Role:
            self._set(role, tuple(_cut(k, shared_tokens) for k in self._keepings(role)))

    def correct(self, worker: WorkerStatus, held: Held) -> None:
        """The worker said what it holds, without having served a turn to its end."""
        kept = (
            _corrected(keeping, worker, held) if keeping.worker_id == worker.worker_id else keeping
            for keeping in self._keepings(worker.role)
        )
        self._set(worker.role, tuple(kept))

    def held(self, nodes: Mapping[WorkerId, Node], shared_tokens: int | None = None) -> Residency:
        """What is held by workers that are alive and in the same epoch, the last ones first.

        `shared_tokens`: how far a prompt equals the last turn, where that is known. What is held
        beyond it is of no use to the prompt.
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
        self._sessions: LRUCache[SessionId, Session] = LRUCache(max_sessions)
        self._histories: LRUCache[SessionId, History]
        self._histories = LRUCache(history_bytes, History.size_bytes)
        self._tokens: LRUCache[SessionId, TurnTokens] = LRUCache(_MAX_TOKENS, len)
        self._decided: LRUCache[SessionId, Decided] = LRUCache(_MAX_EXPLAINED)

    def __len__(self) -> int:
        """Sessions that were placed."""
        return len(self._sessions)

    def __contains__(self, session_id: SessionId) -> bool:
        return session_id in self._sessions

    @property
    def history_bytes(self) -> int:
        return int(self._histories.currsize)

    def of(self, session_id: SessionId) -> Session:
        """The session's record. That of an unknown session is new, and listed when it is placed."""
        return self._sessions.get(session_id) or Session(session_id=session_id)

    def page(self, after: int, max_sessions: int) -> tuple[list[SessionInfo], int | None]:
        """At most so many sessions that were placed after placement number `after`, the one that
        was placed longest ago first, and the `after` of the next page; None when there is none.
        The first placement is 1.
        """
        # All are read, so that none counts as used later than another.
        records = [self._sessions[session_id] for session_id in list(self._sessions)]
        found = [session for session in records if session.listed_as > after]
        shown = found[:max_sessions]
        last = shown[-1].listed_as if len(found) > max_sessions else None
        return [session.info() for session in shown], last

    def history(self, session_id: SessionId) -> History | None:
        return self._histories.get(session_id)

    def tokens(self, session_id: SessionId) -> TurnTokens | None:
        """Those of the session's last turn."""
        return self._tokens.get(session_id)

    def explain(self, session_id: SessionId) -> Explanation:
        """The session's last decision. Raises NotFound."""
        decided = self._decided.get(session_id)
        if decided is None:
            raise NotFound(f"no decision is remembered of a session {session_id!r}")
        return explanation_of(decided)

    def placed(self, session: Session, decided: Decided) -> None:
        """A turn of the session has its seat."""
        if not session.session_id:
            return
        placement = decided.decision.placement
        session.prefill_worker = placement.prefill.worker_id
        session.decode_worker = placement.decode.worker_id
        self._list(session)
        self._decided[session.session_id] = decided

    def record(
        self,
        session: Session,
        completed: Completed,
        tokens: TurnTokens,
        memory: PromptMemory | None,
        end: TurnEnd,
    ) -> TurnEnd:
        """A turn has ended. Returns its end with what the session's next turn may go on from.

        `tokens` are prompt and answer, `memory` that of the prompt.
        """
        if not session.session_id:
            return end
        if end.finish_reason is not FinishReason.CANCELLED:
            # Of a cancelled turn no worker says what it keeps: that is still the turn before.
            _keep(self._tokens, session, tokens)
        history = history_after(completed, tokens.tokens, memory)
        if history is None:
            return end
        rerendered = num_rerendered(completed, history, tokens.num_shared)
        return replace(
            end,
            usage=replace(end.usage, rerendered_tokens=rerendered),
            kept_messages=len(history.digests) if _keep(self._histories, session, history) else 0,
        )

    def release(self, session_id: SessionId) -> bool:
        """Forgets everything of the session; its turns that still run leave nothing either.
        Whether it was known."""
        for part in (self._histories, self._tokens, self._decided):
            part.pop(session_id, None)
        session = self._sessions.pop(session_id, None)
        if session is not None:
            session.is_released = True
        return session is not None

    def fork_history(self, parent_id: SessionId, child_id: SessionId) -> None:
        """The child starts with what was said in its parent, if that is kept."""
        if (history := self._histories.get(parent_id)) is not None:
            self._histories[child_id] = history

    def fork(self, parent_id: SessionId, child_id: SessionId) -> None:
        """The child starts where its parent is, with the same tokens. It has no decision yet."""
        self._list(replace(self._sessions[parent_id], session_id=child_id))
        if (tokens := self._tokens.get(parent_id)) is not None:
            self._tokens[child_id] = tokens

    def _list(self, session: Session) -> None:
        # Popped first, so that the map's keys are in the order in which sessions were placed.
        self._sessions.pop(session.session_id, None)
        session.listed_as = next(self._placements)
        self._sessions[session.session_id] = session


def _keep(part: LRUCache[SessionId, Value], session: Session, value: Value) -> bool:
    """In place of the one before. Whether it is kept."""
    if session.is_released:
        return False
    try:
        part[session.session_id] = value
    except ValueError:
        # Alone it is larger than all that is kept. What was there is not that of the last turn.
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
    """A state that is deeper than the deepest of a prompt may be another prompt's."""
    deepest = held.checkpoint_tokens
    shallower = tuple(state for state in known.states if state < deepest)
    return _keeping(worker, held, (*shallower, deepest) if deepest else ())


def _cut(keeping: Keeping, tokens: int) -> Keeping:
    states = tuple(state for state in keeping.states if state <= tokens)
    return replace(keeping, tokens=min(keeping.tokens, tokens), states=states)
