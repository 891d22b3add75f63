"""Limits the turns in flight, and tells a refused client when to retry."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

from segue.api.errors import Overloaded, Unavailable
from segue.process.telemetry import Clock

# Smallest weight of the newest turn in the running mean of turn durations.
_SMOOTHING = 0.1
_MIN_RETRY_S = 0.05
_MAX_RETRY_S = 60.0


class Admission:
    """Counts turns in flight, and refuses more than `max_turns` with a time to retry.

    Refused clients form a virtual queue: each gets the time at which a place is expected to be free
    for it, later than the times given to the clients before it. One event loop owns it.
    """

    def __init__(self, max_turns: int, *, clock: Clock = time.monotonic) -> None:
        self._max_turns = max_turns
        self._clock = clock
        self._mean_turn_s = 1.0
        self._num_ended = 0
        self._promised_until = 0.0
        """When a place is expected to be free for the client that was refused last."""
        self.num_turns = 0
        self.is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Holds one place. Raises Overloaded or, while draining, Unavailable."""
        if self.is_draining:
            raise Unavailable("the router is draining; send the turn to another router")
        if self.num_turns >= self._max_turns:
            raise Overloaded.after(
                f"{self.num_turns} turns are in flight, and max_turns is {self._max_turns}; "
                "try again after the hinted time",
                retry_after_s=self._promise(),
            )
        self.num_turns += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.num_turns -= 1
            if not self.num_turns:
                self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """Admits no more turns, and returns when none is in flight or the time is over."""
        self.is_draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()

    def _promise(self) -> float:
        """Seconds until a place is free for one more client."""
        now = self._clock()
        # Of n turns in flight, one ends about every mean / n seconds.
        ends_each_s = self._mean_turn_s / max(self.num_turns, 1)
        self._promised_until = max(self._promised_until, now) + ends_each_s
        # Clients that get the longest time come back together, which beats waiting even longer.
        self._promised_until = min(self._promised_until, now + _MAX_RETRY_S)
        return max(self._promised_until - now, _MIN_RETRY_S)

    def turn_took(self, seconds: float) -> None:
        self._num_ended += 1
        weight = max(1 / self._num_ended, _SMOOTHING)
        self._mean_turn_s += weight * (seconds - self._mean_turn_s)
