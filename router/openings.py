"""Which workers hold the opening of a prompt that many sessions share: system message and tools.

A session that is new has nothing anywhere, but its opening may be where another one's was computed.
What is kept here is belief, as in the directory: evictions make it stale, which costs time and
nothing else. Bounded: the longest unused opening is forgotten first.
"""

from __future__ import annotations

import collections
from array import array
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from router.placement.node import Node
from router.placement.side import Held, Residency
from segue.cluster_status import WorkerStatus
from segue.turn import TurnSpec
from segue.types import Epoch, Role, WorkerId

# Of each role: a popular opening is soon on every worker, and a placement weighs one holder or two.
_MAX_HOLDERS = 4


class Opening(NamedTuple):
    """The prompt up to where conversations first part, in whole pages."""

    num_tokens: int
    digest: int
    """Two openings with the same one would be taken for each other, which costs time."""


def opening_of(spec: TurnSpec, page_tokens: int) -> Opening | None:
    """None where the prompt has none, or none of a page."""
    if not spec.branch_points:
        return None
    num_tokens = spec.branch_points[0] // page_tokens * page_tokens
    if not num_tokens:
        return None
    return Opening(num_tokens, hash(array("I", spec.prompt[:num_tokens]).tobytes()))


class Openings:
    """One event loop owns it."""

    def __init__(self, max_openings: int) -> None:
        self._max_openings = max_openings
        self._holders: collections.OrderedDict[Opening, dict[WorkerId, tuple[Role, Epoch]]]
        self._holders = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._holders)

    def served(self, opening: Opening, workers: Iterable[WorkerStatus]) -> None:
        """They hold it since a turn that begins with it ended."""
        holders = self._holders.setdefault(opening, {})
        self._holders.move_to_end(opening)
        for worker in workers:
            holders.pop(worker.worker_id, None)
            holders[worker.worker_id] = worker.role, worker.epoch
            _forget_first(holders, worker.role)
        if len(self._holders) > self._max_openings:
            self._holders.popitem(last=False)

    def gone(self, worker_id: WorkerId) -> None:
        """The worker left or is forgotten."""
        for opening in [o for o, holders in self._holders.items() if worker_id in holders]:
            del self._holders[opening][worker_id]
            if not self._holders[opening]:
                del self._holders[opening]

    def held(self, opening: Opening, nodes: Mapping[WorkerId, Node]) -> Residency:
        """What the workers hold that live, and are in the same life; the least busy first.

        The state at an opening's end stays where it was computed. Decode was shipped its pages.
        """
        alive: list[tuple[int, WorkerId, Held]] = []
        for worker_id, (role, epoch) in self._holders.get(opening, {}).items():
            node = nodes.get(worker_id)
            if node is not None and node.status.epoch == epoch and not node.is_lost:
                state_tokens = opening.num_tokens if role is Role.PREFILL else 0
                held = Held(opening.num_tokens, state_tokens)
                alive.append((node.running_turns, worker_id, held))
        alive.sort(key=lambda one: one[0])
        return {worker_id: held for _, worker_id, held in alive}


def _forget_first(holders: dict[WorkerId, tuple[Role, Epoch]], role: Role) -> None:
    """The holder of this role that was named longest ago, where there are too many."""
    of_role = [worker_id for worker_id, (its, _) in holders.items() if its is role]
    if len(of_role) > _MAX_HOLDERS:
        del holders[of_role[0]]
