"""The ready workers of one role, least loaded first, kept sorted as loads change."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Container, Iterator

from segue.api.types import WorkerId

Rank = tuple[float, int, int, int]
"""Seconds of queued compute, running turns, recent new sessions, negated free pages. The worker
with the smallest rank takes the next turn."""


class LoadIndex:
    """A sorted list: a change is two binary searches. Equal ranks are ordered by name."""

    def __init__(self) -> None:
        self._order: list[tuple[Rank, WorkerId]] = []
        self._ranks: dict[WorkerId, Rank] = {}

    def __len__(self) -> int:
        return len(self._order)

    def put(self, worker_id: WorkerId, rank: Rank) -> None:
        """Adds a worker, or moves it to its rank."""
        if self._ranks.get(worker_id) == rank:
            return
        self.remove(worker_id)
        self._ranks[worker_id] = rank
        bisect.insort(self._order, (rank, worker_id))

    def remove(self, worker_id: WorkerId) -> None:
        rank = self._ranks.pop(worker_id, None)
        if rank is not None:
            del self._order[bisect.bisect_left(self._order, (rank, worker_id))]

    def first(self, count: int, *, skipping: Container[WorkerId] = ()) -> Iterator[WorkerId]:
        """The `count` least loaded, without those to skip. The index must not change meanwhile."""
        for _, worker_id in itertools.islice(self._order, count):
            if worker_id not in skipping:
                yield worker_id

    def check_invariants(self) -> None:
        assert self._order == sorted((rank, name) for name, rank in self._ranks.items())
