"""When a refused client should try again."""

from __future__ import annotations

from segue.process.telemetry import Clock

# Smallest weight of the newest turn in the running mean of turn durations.
_SMOOTHING = 0.1
_MIN_RETRY_S = 0.05
_MAX_RETRY_S = 60.0


class RetryHints:
    """Refused clients form a virtual queue: each gets the time at which a place is expected to be
    free for it, later than the times given to the clients before it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mean_turn_s = 1.0
        self._num_ended = 0
        self._promised_until = 0.0
        """When a place is expected to be free for the client that was refused last."""

    def promise_s(self, num_ahead: int) -> float:
        """Seconds until a place is free for one more client, with `num_ahead` turns in flight."""
        now = self._clock()
        # Of n turns in flight, one ends about every mean / n seconds.
        ends_each_s = self._mean_turn_s / max(num_ahead, 1)
        self._promised_until = max(self._promised_until, now) + ends_each_s
        # Clients that get the longest time come back together, which beats waiting even longer.
        self._promised_until = min(self._promised_until, now + _MAX_RETRY_S)
        return max(self._promised_until - now, _MIN_RETRY_S)

    def turn_took(self, seconds: float) -> None:
        self._num_ended += 1
        weight = max(1 / self._num_ended, _SMOOTHING)
        self._mean_turn_s += weight * (seconds - self._mean_turn_s)
