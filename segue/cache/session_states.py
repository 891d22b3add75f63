"""Which states a session has left, so that those it has outlived go before all others.

A long session leaves a state or two with each turn. The next turn goes on from one of the last, or
from where the template parts; the others cost as much memory and are of use only to who would go
back to an earlier message. By age they would be kept as long as the last states of sessions that
are a little slower.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from cachetools import LRUCache

from segue.cache.node import Checkpoint, Node
from segue.cache.pins import Pins
from segue.cache.states import states_to_go_on_from
from segue.types import SessionId

# One of them is a few references.
_MAX_SESSIONS = 10_000


class Turn(Protocol):
    """What is needed of a `TurnSpec`."""

    @property
    def session_id(self) -> SessionId: ...
    @property
    def context(self) -> Sequence[int]: ...
    @property
    def branch_points(self) -> Sequence[int]: ...


class SessionStates:
    """The owner of the cache owns it."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self._left: LRUCache[SessionId, list[Checkpoint]] = LRUCache(_MAX_SESSIONS)

    def used(self, checkpoint: Checkpoint | None, session_id: SessionId) -> None:
        """A turn goes on from there. What more than one session uses is nobody's own."""
        if checkpoint is not None and checkpoint.session_id != session_id:
            checkpoint.session_id = None

    def kept(self, turn: Turn, last: Node, new: Collection[int]) -> None:
        """A turn has left states at `new` positions before `last`. Its session may go on from some
        of them and of those before; its others go first from now on.
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
