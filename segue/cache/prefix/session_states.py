"""Tracks the states that each session has left, so that superseded ones are evicted first.

A long session leaves a state or two with each turn. The next turn resumes from one of the latest,
or from a branch point of the template. The others cost as much memory, but help only a client that
goes back to an earlier message. LRU would keep them as long as the latest states of slightly slower
sessions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from cachetools import LRUCache

from segue.api.types import SessionId
from segue.cache.prefix.node import Checkpoint, PageNode
from segue.cache.prefix.pins import Pins
from segue.cache.prefix.states import states_to_go_on_from

# Sessions to track. Each takes a few references.
_MAX_SESSIONS = 10_000


class SessionTurn(Protocol):
    """The fields of a `TurnSpec` that are used here."""

    @property
    def session_id(self) -> SessionId: ...
    @property
    def context(self) -> Sequence[int]: ...
    @property
    def branch_points(self) -> Sequence[int]: ...


class SessionStates:
    """Owned by the owner of the cache."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self._left: LRUCache[SessionId, list[Checkpoint]] = LRUCache(_MAX_SESSIONS)

    def used(self, checkpoint: Checkpoint | None, session_id: SessionId) -> None:
        """A turn resumes from the checkpoint. If several sessions use it, it belongs to none."""
        if checkpoint is not None and checkpoint.session_id != session_id:
            checkpoint.session_id = None

    def kept(self, turn: SessionTurn, last: PageNode, new: Collection[int]) -> None:
        """A turn has left states at `new` positions, up to `last`. Its session may resume from some
        of these and of its earlier states; the rest of its states are superseded.
        """
        session_id = turn.session_id
        if not session_id:
            return
        on_the_way = {
            node.num_tokens: node.checkpoint for node in last.upwards() if node.checkpoint
        }
        for position in new:
            if (checkpoint := on_the_way.get(position)) and checkpoint.session_id is None:
                checkpoint.session_id = session_id
        useful = {
            on_the_way[at]
            for at in states_to_go_on_from(on_the_way, turn.branch_points, len(turn.context))
        }
        left = [
            *self._left.pop(session_id, ()),
            *(on_the_way[at] for at in new if at in on_the_way),
        ]
        own = [c for c in dict.fromkeys(left) if c.session_id == session_id and c.is_in_tree]
        for checkpoint in own:
            if checkpoint not in useful:
                self._pins.supersede(checkpoint)
        self._left[session_id] = [checkpoint for checkpoint in own if checkpoint in useful]
