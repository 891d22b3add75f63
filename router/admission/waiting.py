"""The order in which waiting turns get a place. A data structure: no clock, no I/O.

Turns are ordered by priority. Among turns of one priority, tenants are served round-robin, and a
tenant's own turns in order of arrival. All operations take constant time, or the logarithm of the
number of priorities.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

Turn = TypeVar("Turn")


@dataclass(frozen=True, slots=True, eq=False)
class Place(Generic[Turn]):
    """One waiting turn."""

    turn: Turn
    tenant: str
    priority: int
    size_bytes: int


_Level = OrderedDict[str, OrderedDict[Place[Turn], None]]


def fits(size: int, *, own: int, held: int, limit: int) -> bool:
    """Whether a tenant may take `size` more of a resource, of which `held` is in use and `own` is
    its own. It may have at most what it leaves free, so that one tenant cannot fill a queue: it
    gets at most half, and each other tenant finds room.
    """
    return own + size <= limit - held


class WaitingTurns(Generic[Turn]):
    """Bounded by the number of turns and by the bytes of their requests."""

    def __init__(self, max_turns: int, max_bytes: int) -> None:
        self.size_bytes = 0
        self._num = 0
        self._max_turns = max_turns
        self._max_bytes = max_bytes
        self._turns_of: Counter[str] = Counter()
        """By tenant, as in `_bytes_of`."""
        self._bytes_of: Counter[str] = Counter()
        self._levels: dict[int, _Level[Turn]] = {}
        """By priority. Each has its tenants in the order in which they are served."""
        self._priorities: list[int] = []
        """A heap of the levels' priorities. Some may no longer have a level."""

    def __len__(self) -> int:
        return self._num

    def has_room(self, tenant: str, size_bytes: int) -> bool:
        """The empty tenant, that of a router without keys, may fill the queue."""
        own = self._turns_of[tenant] if tenant else 0
        own_bytes = self._bytes_of[tenant] if tenant else 0
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
        """Removes a turn whose client left or that waited too long. Ignores a turn that was
        taken."""
        level: _Level[Turn] = self._levels.get(place.priority) or OrderedDict()
        if place not in level.get(place.tenant, ()):
            return
        del level[place.tenant][place]
        self._drop_empty(level, place)
        self._count(place, -1)

    def take(self) -> Turn:
        """Removes and returns the next turn. There must be one."""
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
        self._turns_of[place.tenant] += sign
        self._bytes_of[place.tenant] += sign * place.size_bytes
        if not self._turns_of[place.tenant]:
            del self._turns_of[place.tenant], self._bytes_of[place.tenant]

    def _push(self, priority: int) -> None:
        heapq.heappush(self._priorities, priority)
        if len(self._priorities) > 2 * len(self._levels) + 16:
            # Turns that leave the queue early do not remove their priorities from the heap.
            self._priorities = list(self._levels)
            heapq.heapify(self._priorities)
