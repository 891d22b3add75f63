"""Writes through a Mooncake engine whose end the caller sleeps for.

Mooncake's own blocking call asks for the status in a loop, on a core of which a CPU's computing
threads then have half: for the 42 ms of CPU time that 18 MiB of states took so, a prompt of 32
tokens next to it took 80 ms longer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from kv_transfer.writing.plan import Fragment

_FIRST_SLEEP_S = 50e-6
_LONGEST_SLEEP_S = 1e-3
_SLEEP_SHARE = 0.125
"""Of the time waited so far: a write is noticed at most this much later than it ends."""

# Which of them depends on Mooncake's version. To ask for the status of either ends the process.
_NOT_SUBMITTED = (0, (1 << 64) - 1)
_PENDING, _ARRIVED = 0, 1


def write_all(
    engine: Any, target_segment: str, fragments: Sequence[Fragment], *, timeout_s: float
) -> str:
    """Returns when every fragment has arrived, or else what went wrong. Then some may still be in
    flight, and the engine must be dropped."""
    started_at = time.monotonic()
    submitted = []
    for fragment in fragments:
        number = engine.transfer_submit_write(
            target_segment, fragment.source_address, fragment.target_address, fragment.num_bytes
        )
        if number in _NOT_SUBMITTED:
            return "not submitted"
        submitted.append(number)
    for number in submitted:
        while (status := engine.transfer_check_status(number)) == _PENDING:
            waited_s = time.monotonic() - started_at
            if waited_s > timeout_s:
                return f"not there after {timeout_s:g} s"
            time.sleep(min(max(_FIRST_SLEEP_S, waited_s * _SLEEP_SHARE), _LONGEST_SLEEP_S))
        if status != _ARRIVED:
            return f"status {status}"
    return ""
