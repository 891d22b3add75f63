"""Which workers hold what of a session. Bounded: the longest unused session is forgotten first.

What workers said when turns ended, and what they said since; evictions make it stale, which costs
time and nothing else.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from router.placement.node import Node
from router.placement.side import Held, Residency
from segue.cluster_status import SessionInfo, WorkerStatus
from segue.types import Epoch, Role, SessionId, WorkerId

# Of each role: a session that moves away and comes back finds what it left.
_MAX_WORKERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Residence:
    """The workers that a session was placed on last."""

    prefill: WorkerId
    decode: WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What one life of a worker keeps of a session."""

    worker_id: WorkerId
    epoch: Epoch
    tokens: int
    states: tuple[int, ...]
    """Prefixes of which a state is there, ascending."""

    @property
    def checkpoint_tokens(self) -> int:
        """The deepest of them."""
        return max(self.states, default=0)

    def of_prompt(self, shared_tokens: int | None) -> Held:
        """What is there of a prompt that is equal to the session's last turn so far."""
        if shared_tokens is None:
            return Held(self.tokens, self.checkpoint_tokens)
        usable = (state for state in self.states if state <= shared_tokens)
        return Held(min(self.tokens, shared_tokens), max(usable, default=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    residence: Residence
    prefills: tuple[Keeping, ...] = ()
    """The last one first; so are the decode workers."""
    decodes: tuple[Keeping, ...] = ()
    last_use: int = 0
    """The number of the use of any session that was this one's last: ascends in the directory."""

    def kept(self, role: Role) -> tuple[Keeping, ...]:
        return self.prefills if role is Role.PREFILL else self.decodes

    def with_kept(self, role: Role, kept: tuple[Keeping, ...]) -> _Known:
        if role is Role.PREFILL:
            return replace(self, prefills=kept)
        return replace(self, decodes=kept)


class SessionDirectory:
    """One event loop owns it. A turn without a session leaves nothing here."""

    def __init__(self, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._uses = itertools.count(1)
        self._sessions: collections.OrderedDict[SessionId, _Known] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, session_id: SessionId) -> Residence | None:
        known = self._sessions.get(session_id)
        return known.residence if known else None

    def remember(self, session_id: SessionId, residence: Residence) -> None:
        """A turn of the session was placed."""
        known = self._sessions.get(session_id)
        self._put(
            session_id,
            replace(known, residence=residence) if known else _Known(residence=residence),
        )

    def forget(self, session_id: SessionId) -> bool:
        """Whether it was known."""
        return self._sessions.pop(session_id, None) is not None

    def fork(self, parent_id: SessionId, child_id: SessionId) -> None:
        """The child begins where its parent is."""
        self._put(child_id, self._sessions[parent_id])

    def page(self, after: int, max_sessions: int) -> tuple[list[SessionInfo], int | None]:
        """At most so many sessions that were used after use number `after`, least recently used
        first, and the `after` of the next page; None when there is none. The first use is 1.
        """
        later = (name for name, known in self._sessions.items() if known.last_use > after)
        names = list(itertools.islice(later, max_sessions + 1))
        shown = names[:max_sessions]
        last_use = self._sessions[shown[-1]].last_use if len(names) > max_sessions else None
        return [self._info(name) for name in shown], last_use

    def _info(self, session_id: SessionId) -> SessionInfo:
        residence, keeping = self._sessions[session_id].residence, self.kept(session_id)
        return SessionInfo(
            session_id=session_id,
            prefill_worker=residence.prefill,
            decode_worker=residence.decode,
            kept_tokens=keeping.tokens if keeping else 0,
            kept_checkpoint_tokens=keeping.checkpoint_tokens if keeping else 0,
        )

    def kept(self, session_id: SessionId) -> Keeping | None:
        """What the decode worker keeps that answered last: the session's lease is there."""
        known = self._sessions.get(session_id)
        return known.decodes[0] if known and known.decodes else None

    def keep(
        self,
        session_id: SessionId,
        worker: WorkerStatus,
        held: Held,
        states: tuple[int, ...] = (),
    ) -> None:
        """The worker served a turn of the session. One that was released meanwhile stays so.

        `states` are all that it keeps and that may be of use; else only the deepest is known.
        """
        known = self._sessions.get(session_id)
        if known is None:
            return
        others = [k for k in known.kept(worker.role) if k.worker_id != worker.worker_id]
        kept = (_keeping(worker, held, states), *others)[:_MAX_WORKERS]
        self._sessions[session_id] = known.with_kept(worker.role, kept)

    def parted(self, session_id: SessionId, shared_tokens: int) -> None:
        """The session's last turn shares only so much with what it was before: of the rest nobody
        has anything that a next turn could use."""
        known = self._sessions.get(session_id)
        if known is not None:
            for role in Role:
                kept = tuple(_cut(keeping, shared_tokens) for keeping in known.kept(role))
                known = known.with_kept(role, kept)
            self._sessions[session_id] = known

    def correct(self, session_id: SessionId, worker: WorkerStatus, held: Held) -> None:
        """The worker said what it holds, without having served a turn to its end."""
        known = self._sessions.get(session_id)
        if known is None:
            return
        kept = tuple(
            _corrected(keeping, worker, held) if keeping.worker_id == worker.worker_id else keeping
            for keeping in known.kept(worker.role)
        )
        self._sessions[session_id] = known.with_kept(worker.role, kept)

    def held(
        self,
        session_id: SessionId,
        nodes: Mapping[WorkerId, Node],
        shared_tokens: int | None = None,
    ) -> Residency:
        """What is held by workers that live and by the same life of them, the last ones first.

        `shared_tokens`: how far a prompt is equal to the last turn, where that is known. What is
        behind them is of no use to it.
        """
        known = self._sessions.get(session_id)
        if known is None:
            return {}
        residency: dict[WorkerId, Held] = {}
        for keeping in (*known.decodes, *known.prefills):
            node = nodes.get(keeping.worker_id)
            if node is not None and node.status.epoch == keeping.epoch and not node.is_lost:
                residency[keeping.worker_id] = keeping.of_prompt(shared_tokens)
        return residency

    def _put(self, session_id: SessionId, known: _Known) -> None:
        self._sessions[session_id] = replace(known, last_use=next(self._uses))
        self._sessions.move_to_end(session_id)
        if len(self._sessions) > self._max_sessions:
            self._sessions.popitem(last=False)


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
