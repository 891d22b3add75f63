"""Chooses the next lease to revoke: the least valuable one whose last page, or state, is evictable.

    add ──▶ waiting, by worth and age ── first() ──▶ revoked
                 ▲                │
                 └── settled ── parked: others need what it keeps

A lease that cannot give anything up is parked at the node or checkpoint that it keeps, until
`settled` is called for that. So a revocation examines each lease about once, however many sessions
there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Keeps = TypeVar("Keeps", bound=Hashable)

Rank = tuple[float, int]
"""Worth, then the turn's number. The smallest rank is revoked first."""


class RevocationOrder(Generic[Item, Keeps]):
    def __init__(
        self,
        *,
        rank: Callable[[Item], Rank],
        keeps: Callable[[Item], Keeps | None],
        may_give_up: Callable[[Keeps], bool],
    ) -> None:
        """`rank` is unique and does not change while an item is here. `keeps` returns None for an
        item that has ended or has nothing left to give up: it is dropped.
        """
        self._rank = rank
        self._keeps = keeps
        self._may_give_up = may_give_up
        self._waiting: list[tuple[Rank, Item]] = []
        self._parked: dict[Keeps, list[Item]] = {}
        self._num_parked = 0

    def __len__(self) -> int:
        """May still count some items that have ended."""
        return len(self._waiting) + self._num_parked

    def add(self, item: Item) -> None:
        heapq.heappush(self._waiting, (self._rank(item), item))

    def first(self) -> Item | None:
        """The item to revoke. It stays here until `keeps` returns None for it."""
        while self._waiting:
            _, item = self._waiting[0]
            kept = self._keeps(item)
            if kept is not None and self._may_give_up(kept):
                return item
            heapq.heappop(self._waiting)
            if kept is not None:
                self._parked.setdefault(kept, []).append(item)
                self._num_parked += 1
        return None

    def settled(self, kept: Keeps) -> None:
        """Call when `may_give_up(kept)` may have become true."""
        if self._parked and kept in self._parked and self._may_give_up(kept):
            parked = self._parked.pop(kept)
            self._num_parked -= len(parked)
            for item in parked:
                self.add(item)

    def compact(self, num_live: int) -> None:
        """Drops ended items, if most items here have ended. Call it when one has ended."""
        if len(self) <= 2 * num_live + 64:
            return
        self._waiting = [entry for entry in self._waiting if self._keeps(entry[1]) is not None]
        heapq.heapify(self._waiting)
        for kept, parked in list(self._parked.items()):
            live = [item for item in parked if self._keeps(item) is not None]
            self._num_parked -= len(parked) - len(live)
            if live:
                self._parked[kept] = live
            else:
                del self._parked[kept]
