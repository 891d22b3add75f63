"""Chooses the positions in a prompt at which to keep a state, and tracks those of each session.

A sequence can resume only from a kept state, and a state is kept only at the end of a page:

    ├ system, tools ┼ … ┼ user ┼ header │ start of an answer ┤        what a template writes
              ▲             ▲         ▲                ▲ ▲
           opening      branched    the next turn's    again, and the end

A state needs the memory of thousands of tokens' pages. So a prompt keeps few, and never two in the
same page.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from cachetools import LRUCache

from segue.api.turn import TurnSpec
from segue.api.types import SessionId
from segue.cache.prefix.node import Checkpoint, PageNode
from segue.cache.prefix.pins import Pins

# Most strides of one prompt, however long. If another prompt branches off between two of them, a
# state is kept there then.
_MAX_STRIDES = 4
# Most states of one prompt: a state is expensive.
_MAX_STATES = 10


def states_wanted(
    branch_points: Sequence[int],
    start: int,
    num_prompt: int,
    *,
    page_tokens: int,
    branched_at: int = 0,
    stride: int | None = None,
) -> tuple[int, ...]:
    """Page boundaries after `start` and before the prompt's end, most useful first: a caller with
    room for fewer takes the first ones.

    `branch_points` are positions, ascending, at which other prompts may branch off; the session's
    next turn most likely does so at the last one. `branched_at` is where another cached prompt
    branches off, so a third one may do so too. The prompt's last page boundary is for the same
    prompt again, whose last token must be computed. With a `stride`, a long prompt gets a few more.
    """
    again = (num_prompt - 1) // page_tokens * page_tokens
    wanted = (*reversed(branch_points), again, branched_at, *_strides(start, again, stride))
    aligned = (position // page_tokens * page_tokens for position in wanted)
    positions = dict.fromkeys(at for at in aligned if start < at < num_prompt)
    return tuple(positions)[:_MAX_STATES]


def resumable_states(
    kept: Iterable[int], branch_points: Sequence[int], num_prompt: int
) -> tuple[int, ...]:
    """The positions of a turn's `kept` states that the next turn may resume from, ascending: the
    deepest, and for each branch point the deepest state up to it. The same prompt again needs a
    state before its last token.
    """
    positions = sorted(kept)
    useful = set(positions[-1:])
    for point in (*branch_points, num_prompt - 1):
        useful.update([position for position in positions if position <= point][-1:])
    return tuple(sorted(useful))


def _strides(start: int, end: int, stride: int | None) -> Iterable[int]:
    """Multiples of `stride`, or of 2, 4, 8, … times `stride` over a long distance. Prompts with a
    common prefix get the same positions."""
    if stride is None:
        return ()
    while (end - start) // stride > _MAX_STRIDES:
        stride *= 2
    return range(start - start % stride + stride, end, stride)


# Sessions to track. Each takes a few references.
_MAX_SESSIONS = 10_000


class SessionStates:
    """The states that each session has left, so that superseded ones are evicted first.

    A long session leaves a state or two with each turn. The next turn resumes from one of the
    latest, or from a branch point of the template. The others cost as much memory, but help only a
    client that goes back to an earlier message. LRU would keep them as long as the latest states of
    slightly slower sessions. The owner of the cache owns it.
    """

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self._left: LRUCache[SessionId, list[Checkpoint]] = LRUCache(_MAX_SESSIONS)

    def used(self, checkpoint: Checkpoint | None, session_id: SessionId) -> None:
        """A turn resumes from the checkpoint. If several sessions use it, it belongs to none."""
        if checkpoint is not None and checkpoint.session_id != session_id:
            checkpoint.session_id = None

    def adopted(self, session_id: SessionId, last: PageNode, positions: Collection[int]) -> None:
        """The session has come from another worker, with states at these positions up to `last`."""
        new = [
            node.checkpoint
            for node in last.upwards()
            if node.num_tokens in positions and node.checkpoint
        ]
        for checkpoint in new:
            checkpoint.session_id = checkpoint.session_id or session_id
        self._left[session_id] = [*self._left.pop(session_id, ()), *reversed(new)]

    def kept(self, turn: TurnSpec, last: PageNode, new: Collection[int]) -> None:
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
            for at in resumable_states(on_the_way, turn.branch_points, len(turn.context))
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
