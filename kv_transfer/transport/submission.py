"""Writes through a Mooncake engine whose end the caller sleeps for.

Mooncake's own blocking call asks for the status in a loop, on a core of which a CPU's computing
threads then have half: for the 42 ms of CPU time that 18 MiB of states took so, a prompt of 32
tokens next to it took 80 ms longer.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Sequence
from typing import Any

from kv_transfer.writing.plan import Fragment
from segue.process.telemetry import Clock

_SHORTEST_SLEEP_S = 50e-6
_LONGEST_SLEEP_S = 1e-3
_SLEEP_SHARE = 0.125
"""Of the time waited so far: a write is noticed at most this much later than it ends."""

_LARGE_BYTES = 256 << 10
"""From here on the bytes decide how long a write takes."""
_FIRST_S_PER_BYTE = 1 / 4e9
_EXPECTED_SHARE = 0.75
"""Of the time that the fastest of the last large writes would have taken, to sleep before the first
question. Below 1, so that it gets shorter when writes become faster."""
_LONGEST_FIRST_SLEEP_S = 20e-3

# Which of them depends on Mooncake's version. To ask for the status of either ends the process.
_NOT_SUBMITTED = (0, (1 << 64) - 1)
_PENDING, _ARRIVED = 0, 1


class SubmittedWrites:
    """One thread writes. Asks as seldom as it can: each question takes the GIL from the thread that
    computes."""

    def __init__(
        self,
        *,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._recent_s_per_byte = collections.deque([_FIRST_S_PER_BYTE], maxlen=8)

    def write_all(
        self, engine: Any, target_segment: str, fragments: Sequence[Fragment], *, timeout_s: float
    ) -> str:
        """Returns when every fragment has arrived, or else what went wrong. Then some may still be
        in flight, and the engine must be dropped."""
        started_at = self._clock()
        num_bytes = sum(fragment.num_bytes for fragment in fragments)
        submitted = []
        for fragment in fragments:
            number = engine.transfer_submit_write(
                target_segment,
                fragment.source_address,
                fragment.target_address,
                fragment.num_bytes,
            )
            if number in _NOT_SUBMITTED:
                return "not submitted"
            submitted.append(number)
        expected_s = num_bytes * min(self._recent_s_per_byte)
        self._sleep(min(expected_s * _EXPECTED_SHARE, _LONGEST_FIRST_SLEEP_S))
        for number in submitted:
            while (status := engine.transfer_check_status(number)) == _PENDING:
                waited_s = self._clock() - started_at
                if waited_s > timeout_s:
                    return f"not there after {timeout_s:g} s"
                self._sleep(min(max(_SHORTEST_SLEEP_S, waited_s * _SLEEP_SHARE), _LONGEST_SLEEP_S))
            if status != _ARRIVED:
                return f"status {status}"
        if num_bytes >= _LARGE_BYTES:
            self._recent_s_per_byte.append((self._clock() - started_at) / num_bytes)
        return ""
