"""The eviction order of cached items: lowest score first, then least recently used.

This is GreedyDual-Size: an item's score is its worth, in seconds per byte, plus the line at its
last use, and the line rises to the score of each evicted item. So items of high worth are kept
longer, but not for ever, and items of equal worth are evicted in LRU order.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

from segue.cache.prefix.node import Use

Item = TypeVar("Item", bound=Hashable)


def score(worth: float, use: Use) -> float:
    """The lowest score is evicted first. An item of no worth goes before all others, however
    recent."""
    return use.line + worth if worth > 0.0 else 0.0


class _Entry(NamedTuple):
    score: float
    tick: int
    serial: int
    """Unique, so that comparing entries never compares items."""
    use: Use
    item: object


class EvictionQueue(Generic[Item]):
    """The evictable items. `worth(item)` is in seconds per byte, >= 0.

    A worth may rise while an item waits: `pop` computes it again. An item whose worth fell must be
    added again.
    """

    def __init__(self, worth: Callable[[Item], float]) -> None:
        self._worth = worth
        self._line = 0.0
        self._numbers = itertools.count(1)
        self._items: dict[Item, _Entry] = {}
        # Also holds entries that were replaced or discarded; `_first` skips them.
        self._heap: list[_Entry] = []

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item: Item) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def use(self) -> Use:
        """The current time, to store as an item's last use."""
        return Use(self._line, next(self._numbers))

    def add(self, item: Item, last_use: Use) -> None:
        """Adds an item, or moves it to its new place."""
        entry = _Entry(
            score(self._worth(item), last_use), last_use.tick, next(self._numbers), last_use, item
        )
        self._items[item] = entry
        heapq.heappush(self._heap, entry)
        self._compact()

    def discard(self, item: Item) -> None:
        self._items.pop(item, None)

    def pop(self) -> Item | None:
        """Removes and returns the item to evict next; None when there is none."""
        while self._items:
            item = self._first()
            entry = self._items[item]
            if score(self._worth(item), entry.use) > entry.score:
                self.add(item, entry.use)
                continue
            del self._items[item]
            self._line = max(self._line, entry.score)
            return item
        return None

    def check_invariants(self) -> None:
        """Checks that every item has its entry in the heap, and that the heap is in order."""
        in_heap = {entry.serial for entry in self._heap}
        assert all(entry.serial in in_heap for entry in self._items.values()), "an entry is lost"
        parents = ((self._heap[(i - 1) // 2], self._heap[i]) for i in range(1, len(self._heap)))
        assert all(parent <= child for parent, child in parents), "the heap is out of order"

    def _first(self) -> Item:
        while True:
            entry = heapq.heappop(self._heap)
            item: Item = entry.item  # type: ignore[assignment]  # add() put an Item there
            if self._items.get(item) is entry:
                return item

    def _compact(self) -> None:
        if len(self._heap) > 2 * len(self._items) + 64:
            self._heap = list(self._items.values())
            heapq.heapify(self._heap)
