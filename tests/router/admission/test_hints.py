from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import pytest

from router.admission.admission import RetryHints


class Line:
    """A router with four places and turns of one second, in virtual time. Clients obey hints."""

    def __init__(self, max_turns: int = 4, turn_s: float = 1.0) -> None:
        self.now = 0.0
        self.num_refused = 0
        self._num_turns = 0
        self._max_turns = max_turns
        self._turn_s = turn_s
        self._hints = RetryHints(lambda: self.now)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def run(self, num_clients: int) -> None:
        for _ in range(num_clients):
            self._at(self.now, self._ask)
        while self._events:
            self.now, _, happen = heapq.heappop(self._events)
            happen()

    def _ask(self) -> None:
        if self._num_turns == self._max_turns:
            self.num_refused += 1
            self._at(self.now + self._hints.promise_s(self._num_turns), self._ask)
            return
        self._num_turns += 1
        self._at(self.now + self._turn_s, self._end)

    def _end(self) -> None:
        self._num_turns -= 1
        self._hints.turn_took(self._turn_s)

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happen))


@pytest.mark.parametrize("turn_s", [0.2, 1.0, 7.0])
def test_clients_that_obey_the_hint_are_refused_about_once(turn_s: float) -> None:
    line = Line(turn_s=turn_s)
    line.run(8)  # The router learns how long turns take.

    line.num_refused = 0
    before = line.now
    line.run(60)

    # With a constant hint of 0.05 s there were hundreds of refusals.
    assert line.num_refused <= 3 * 60
    # All places are used: serving everyone takes hardly longer than necessary.
    assert line.now - before <= 1.5 * 60 / 4 * turn_s + turn_s


def test_each_refused_client_gets_a_later_time() -> None:
    hints = RetryHints(lambda: 0.0)

    assert [hints.promise_s(1) for _ in range(3)] == [1.0, 2.0, 3.0]


def test_the_hint_is_above_zero_and_at_most_a_minute() -> None:
    slow, fast = (RetryHints(lambda: 0.0) for _ in range(2))
    for _ in range(100):
        slow.turn_took(1e6)
        fast.turn_took(1e-6)

    assert (slow.promise_s(1), fast.promise_s(1)) == (60.0, pytest.approx(0.05))
