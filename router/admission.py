"""How many turns may be in flight, and when a refused client should come back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from segue.errors import Overloaded, Unavailable

# Weight of the newest turn in the running mean of turn durations.
_SMOOTHING = 0.1
_MIN_RETRY_S = 0.05
_MAX_RETRY_S = 30.0


def retry_after_s(mean_turn_s: float, num_turns: int) -> float:
    """Expected time until one of `num_turns` running turns ends, within sensible bounds.

    Turns in flight end one by one about every mean / n seconds.
    """
    return min(max(mean_turn_s / max(num_turns, 1), _MIN_RETRY_S), _MAX_RETRY_S)


class Admission:
    """Counts turns in flight. One event loop owns it."""

    def __init__(self, max_turns: int) -> None:
        self._max_turns = max_turns
        self._mean_turn_s = 1.0
        self.num_turns = 0
        self.is_draining = False

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Holds one place. Raises Overloaded or, while draining, Unavailable."""
        if self.is_draining:
            raise Unavailable("the router is draining; send the turn to another one")
        if self.num_turns >= self._max_turns:
            raise Overloaded.after(
                f"{self.num_turns} turns are in flight and at most {self._max_turns} may be; "
                "try again after the hinted time",
                retry_after_s=retry_after_s(self._mean_turn_s, self.num_turns),
            )
        self.num_turns += 1
        try:
            yield
        finally:
            self.num_turns -= 1

    def turn_took(self, seconds: float) -> None:
        self._mean_turn_s += _SMOOTHING * (seconds - self._mean_turn_s)
