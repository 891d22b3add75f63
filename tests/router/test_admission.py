from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from router.admission import Admission
from segue.api.errors import Overloaded, Unavailable


def test_a_turn_beyond_the_limit_is_refused_with_a_hint() -> None:
    admission = Admission(max_turns=1)

    with admission.admit(), pytest.raises(Overloaded, match="1 turns are in flight") as refused:
        admission.admit().__enter__()

    assert refused.value.retry_after_s > 0


def test_a_place_is_free_again_when_its_turn_fails() -> None:
    admission = Admission(max_turns=1)

    with pytest.raises(RuntimeError), admission.admit():
        raise RuntimeError

    assert admission.num_turns == 0


def test_a_draining_router_accepts_no_turns() -> None:
    admission = Admission(max_turns=1)
    admission.is_draining = True

    with pytest.raises(Unavailable, match="draining"):
        admission.admit().__enter__()


class Line:
    """A router with four places and turns of one second, in virtual time. Clients obey hints."""

    def __init__(self, max_turns: int = 4, turn_s: float = 1.0) -> None:
        self.now = 0.0
        self.num_refused = 0
        self.served_at: list[float] = []
        self._turn_s = turn_s
        self._admission = Admission(max_turns, clock=lambda: self.now)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def run(self, num_clients: int) -> None:
        for _ in range(num_clients):
            self._at(self.now, self._ask)
        while self._events:
            self.now, _, happen = heapq.heappop(self._events)
            happen()

    def _ask(self) -> None:
        place = self._admission.admit()
        try:
            place.__enter__()
        except Overloaded as refused:
            self.num_refused += 1
            self._at(self.now + refused.retry_after_s, self._ask)
            return
        self.served_at.append(self.now)
        self._at(self.now + self._turn_s, lambda: self._end(place))

    def _end(self, place: AbstractContextManager[None]) -> None:
        place.__exit__(None, None, None)
        self._admission.turn_took(self._turn_s)

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
    admission = Admission(max_turns=1, clock=lambda: 0.0)
    hints = []

    with admission.admit():
        for _ in range(3):
            with pytest.raises(Overloaded) as refused:
                admission.admit().__enter__()
            hints.append(refused.value.retry_after_s)

    assert hints == [1.0, 2.0, 3.0]


def test_the_hint_is_above_zero_and_at_most_a_minute() -> None:
    slow, fast = (Admission(max_turns=1, clock=lambda: 0.0) for _ in range(2))
    for _ in range(100):
        slow.turn_took(1e6)
        fast.turn_took(1e-6)

    for admission, hint_s in ((slow, 60.0), (fast, 0.05)):
        with admission.admit(), pytest.raises(Overloaded) as refused:
            admission.admit().__enter__()
        assert refused.value.retry_after_s == pytest.approx(hint_s)
