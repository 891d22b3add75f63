"""How many turns may be in flight, and when a refused client should come back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from segue.errors import Overloaded, Unavailable
from segue.telemetry import Clock

# Weight of the newest turn in the running mean of turn durations, once there are some.
_SMOOTHING = 0.1
_MIN_RETRY_S = 0.05
_MAX_RETRY_S = 60.0


class Admission:
    """Counts turns in flight, and sends those that find no place away until there is one.

    Clients that were refused form a queue that only exists as times: each is told when its own
    place is expected to be free, after those of all that were told before. One event loop owns it.
    """

    def __init__(self, max_turns: int, *, clock: Clock = time.monotonic) -> None:
        self._max_turns = max_turns
        self._clock = clock
        self._mean_turn_s = 1.0
        self._num_ended = 0
        self._promised_until = 0.0
        """When the place of the client that was refused last is expected to be free."""
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
                retry_after_s=self._promise(),
            )
        self.num_turns += 1
        try:
            yield
        finally:
            self.num_turns -= 1

    def _promise(self) -> float:
        """Seconds until a place is free for one client more."""
        now = self._clock()
        # Turns in flight end one by one, about every mean / n seconds.
        ends_each_s = self._mean_turn_s / max(self.num_turns, 1)
        self._promised_until = max(self._promised_until, now) + ends_each_s
        # Those who are told the same longest time come back together: better late than never.
        self._promised_until = min(self._promised_until, now + _MAX_RETRY_S)
        return max(self._promised_until - now, _MIN_RETRY_S)

    def turn_took(self, seconds: float) -> None:
        self._num_ended += 1
        weight = max(1 / self._num_ended, _SMOOTHING)
        self._mean_turn_s += weight * (seconds - self._mean_turn_s)
