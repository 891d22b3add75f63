"""The shared-prefix index: which workers hold the start of a prompt that many sessions share, its
system message and tools.

A new session left nothing anywhere, but the start of its prompt may be where that of another one
was computed. The index may be stale, because workers evict without telling the router; a stale
entry costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cachetools import LRUCache

from router.placement.node import Node
from router.placement.side import Held, Residency
from segue.cluster_status import WorkerStatus
from segue.turn import TurnSpec
from segue.types import Epoch, Role, WorkerId

# Of each role: a popular prefix is soon on every worker, and a placement weighs one holder or two.
_MAX_HOLDERS = 4


class SharedPrefix(NamedTuple):
    """The prompt up to where conversations first part, in whole pages."""

    num_tokens: int
    digest: int
    """Two prefixes with the same digest would be taken for each other, which costs time."""


def shared_prefix_of(spec: TurnSpec, page_tokens: int) -> SharedPrefix | None:
    """None if conversations part within the first page, or nowhere."""
    if not spec.branch_points:
        return None
    num_tokens = spec.branch_points[0] // page_tokens * page_tokens
    if not num_tokens:
        return None
    return SharedPrefix(num_tokens, hash(spec.context.tokens[:num_tokens].tobytes()))


class SharedPrefixIndex:
    """One event loop owns it. The least recently used prefix is dropped first."""

    def __init__(self, max_prefixes: int) -> None:
        self._holders: LRUCache[SharedPrefix, dict[WorkerId, tuple[Role, Epoch]]]
        self._holders = LRUCache(max_prefixes)

    def __len__(self) -> int:
        return len(self._holders)

    def served(self, prefix: SharedPrefix, workers: Iterable[WorkerStatus]) -> None:
        """The workers hold it: a turn that starts with it has ended there."""
        holders = self._holders.pop(prefix, {})
        for worker in workers:
            holders.pop(worker.worker_id, None)
            holders[worker.worker_id] = worker.role, worker.epoch
            _drop_oldest(holders, worker.role)
        # Popped first, so that the map's keys are in the order in which prefixes were served.
        self._holders[prefix] = holders

    def gone(self, worker_id: WorkerId) -> None:
        """The worker has left or was forgotten."""
        # Each look-up counts as a use, which leaves the prefixes in the order of their keys.
        for prefix in list(self._holders):
            holders = self._holders[prefix]
            holders.pop(worker_id, None)
            if not holders:
                del self._holders[prefix]

    def held(self, prefix: SharedPrefix, nodes: Mapping[WorkerId, Node]) -> Residency:
        """What workers hold that are alive and in the same epoch; the least busy first.

        The state at the prefix's end stays where it was computed. Decode has its pages only.
        """
        alive: list[tuple[int, WorkerId, Held]] = []
        for worker_id, (role, epoch) in self._holders.get(prefix, {}).items():
            node = nodes.get(worker_id)
            if node is not None and node.status.epoch == epoch and not node.is_lost:
                state_tokens = prefix.num_tokens if role is Role.PREFILL else 0
                held = Held(prefix.num_tokens, state_tokens)
                alive.append((node.running_turns, worker_id, held))
        alive.sort(key=lambda one: one[0])
        return {worker_id: held for _, worker_id, held in alive}


def _drop_oldest(holders: dict[WorkerId, tuple[Role, Epoch]], role: Role) -> None:
    """The holder of this role that was named longest ago, if there are too many."""
    of_role = [worker_id for worker_id, (its, _) in holders.items() if its is role]
    if len(of_role) > _MAX_HOLDERS:
        del holders[of_role[0]]
