"""The shared-prefix index: the workers that hold a prefix that many sessions share, the system
message and the tools.

No worker holds anything of a new session, but one may hold its shared prefix, computed for another
session. The index may be stale, because workers do not report evictions; a stale entry only costs
time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cachetools import LRUCache

from router.placement.node import WorkerNode
from router.placement.side import Held, Residency
from segue.api.cluster.status import WorkerStatus
from segue.api.turn import TurnSpec
from segue.api.types import Epoch, Role, WorkerId

# Holders to remember per role: a popular prefix is soon on every worker, and a placement weighs one
# or two holders.
_MAX_HOLDERS = 4


class SharedPrefix(NamedTuple):
    """The prompt up to its first branch point, in whole pages."""

    num_tokens: int
    digest: int
    """A collision only costs time."""


def shared_prefix_of(spec: TurnSpec, page_tokens: int) -> SharedPrefix | None:
    """None if the first branch point is within the first page, or if there is none."""
    if not spec.branch_points:
        return None
    num_tokens = spec.branch_points[0] // page_tokens * page_tokens
    if not num_tokens:
        return None
    tokens = spec.context.tokens[:num_tokens].tobytes()
    return SharedPrefix(num_tokens, hash(spec.context.salt + tokens))


class SharedPrefixIndex:
    """One event loop owns it. The least recently used prefix is dropped first."""

    def __init__(self, max_prefixes: int) -> None:
        self._holders: LRUCache[SharedPrefix, dict[WorkerId, tuple[Role, Epoch]]]
        self._holders = LRUCache(max_prefixes)

    def __len__(self) -> int:
        return len(self._holders)

    def served(self, prefix: SharedPrefix, workers: Iterable[WorkerStatus]) -> None:
        """A turn that starts with the prefix has ended on these workers, which hold it now."""
        holders = self._holders.pop(prefix, {})
        for worker in workers:
            holders.pop(worker.worker_id, None)
            holders[worker.worker_id] = worker.role, worker.epoch
            _drop_oldest(holders, worker.role)
        # Popped first, so that the map's keys stay in the order of last use.
        self._holders[prefix] = holders

    def gone(self, worker_id: WorkerId) -> None:
        """The worker has left or was forgotten."""
        # A look-up counts as a use. All are looked up in order, so their order does not change.
        for prefix in list(self._holders):
            holders = self._holders[prefix]
            holders.pop(worker_id, None)
            if not holders:
                del self._holders[prefix]

    def held(self, prefix: SharedPrefix, nodes: Mapping[WorkerId, WorkerNode]) -> Residency:
        """What live workers hold, if still in the same epoch, least busy first.

        Only prefill workers keep the state at the prefix's end. Decode workers have only the pages.
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
    """Drops the least recent holder of this role if there are too many."""
    of_role = [worker_id for worker_id, (its, _) in holders.items() if its is role]
    if len(of_role) > _MAX_HOLDERS:
        del holders[of_role[0]]
