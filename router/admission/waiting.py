"""The order in which waiting turns get a place: a data structure, without clock and I/O.

By priority; among turns of one priority the tenants take turns; within a tenant the first comes
first. All operations take constant time, or the logarithm of the number of priorities.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Turn = TypeVar("Turn")


@dataclass(frozen=True, slots=True, eq=False)
class Place(Generic[Turn]):
    """One waiting turn."""

    turn: Turn
    tenant: str
    priority: int
    size_bytes: int


@dataclass(slots=True)
class _Held:
    turns: Counter[str] = field(default_factory=Counter)
    size_bytes: Counter[str] = field(default_factory=Counter)

    def add(self, place: Place[Turn], sign: int) -> None:
        self.turns[place.tenant] += sign
        self.size_bytes[place.tenant] += sign * place.size_bytes
        if not self.turns[place.tenant]:
            del self.turns[place.tenant], self.size_bytes[place.tenant]


_Level = OrderedDict[str, OrderedDict[Place[Turn], None]]


def fits(size: int, *, own: int, held: int, limit: int) -> bool:
    """Whether more may be held of a bounded thing. Who holds `own` of it may get at most as much as
    stays free, so that one tenant cannot fill a queue: it ends up with half, and each other one
    finds room.
    """
    return own + size <= limit - held


class WaitingTurns(Generic[Turn]):
    """Bounded by the number of turns and by the bytes of their requests."""

    def __init__(self, max_turns: int, max_bytes: int) -> None:
        self.size_bytes = 0
        self._num = 0
        self._max_turns = max_turns
        self._max_bytes = max_bytes
        self._held = _Held()
        self._levels: dict[int, _Level[Turn]] = {}
        """By priority. In each, the tenants in the order of their turns."""
        self._priorities: list[int] = []
        """A heap of the levels' priorities, and of some that have no level any more."""

    def __len__(self) -> int:
        return self._num

    def has_room(self, tenant: str, size_bytes: int) -> bool:
        """The empty tenant stands for everybody, and may fill the queue."""
        own = self._held.turns[tenant] if tenant else 0
        own_bytes = self._held.size_bytes[tenant] if tenant else 0
        return fits(1, own=own, held=self._num, limit=self._max_turns) and fits(
            size_bytes, own=own_bytes, held=self.size_bytes, limit=self._max_bytes
        )

    def add(self, place: Place[Turn]) -> None:
        level = self._levels.get(place.priority)
        if level is None:
            level = self._levels[place.priority] = OrderedDict()
            self._push(place.priority)
        level.setdefault(place.tenant, OrderedDict())[place] = None
        self._count(place, 1)

    def remove(self, place: Place[Turn]) -> None:
        """Its client has left, or it waited too long. Does nothing for a turn that was taken."""
        level: _Level[Turn] = self._levels.get(place.priority) or OrderedDict()
        if place not in level.get(place.tenant, ()):
            return
        del level[place.tenant][place]
        self._drop_empty(level, place)
        self._count(place, -1)

    def take(self) -> Turn:
        """The next turn, which waits no longer. There must be one."""
        while self._priorities[0] not in self._levels:
            heapq.heappop(self._priorities)
        level = self._levels[self._priorities[0]]
        tenant = next(iter(level))
        place, _ = level[tenant].popitem(last=False)
        level.move_to_end(tenant)
        self._drop_empty(level, place)
        self._count(place, -1)
        return place.turn

    def _drop_empty(self, level: _Level[Turn], place: Place[Turn]) -> None:
        if not level[place.tenant]:
            del level[place.tenant]
        if not level:
            del self._levels[place.priority]

    def _count(self, place: Place[Turn], sign: int) -> None:
        self._num += sign
        self.size_bytes += sign * place.size_bytes
        self._held.add(place, sign)

    def _push(self, priority: int) -> None:
        heapq.heappush(self._priorities, priority)
        if len(self._priorities) > 2 * len(self._levels) + 16:
            # Clients that leave take no priorities off the heap.
            self._priorities = list(self._levels)
            heapq.heapify(self._priorities)
