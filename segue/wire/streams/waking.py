"""Wakes the readers of a stream's calls, a few in each round of the event loop.

A message may carry a token for each of a hundred turns, and handling one takes tens of
microseconds. If all their readers were woken at once, a new request, and the first token of a new
turn, would wait for all of them. In between, the loop reads what else has arrived: first tokens go
ahead of others, and a turn whose reader still waits gets both of its tokens in one piece.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

_TOGETHER = 8


class Waking:
    def __init__(self) -> None:
        self._first: deque[Callable[[], None]] = deque()
        self._others: deque[Callable[[], None]] = deque()
        self._is_running = False

    def add(self, wake: Callable[[], None], *, is_first: bool) -> None:
        (self._first if is_first else self._others).append(wake)

    def start(self) -> None:
        """Wakes the readers that were added."""
        if not self._is_running:
            self._is_running = True
            self._wake_some()

    def _wake_some(self) -> None:
        for _ in range(_TOGETHER):
            waiting = self._first or self._others
            if not waiting:
                self._is_running = False
                return
            waiting.popleft()()
        asyncio.get_running_loop().call_soon(self._wake_some)
