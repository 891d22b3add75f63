"""A transport that leaves room on the link for others: it sends no faster than it may."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from kv_transfer.plan import Fragment
from kv_transfer.transport import Transport
from segue.telemetry import Clock


class PacedTransport:
    """Paces writes, whole ones: the time that a write took counts, the rest is waited for.

    A link that others share stays usable for them, and a fast machine can stand for a slower link.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        bytes_per_s: float,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = transport
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._sleep = sleep

    @property
    def segment(self) -> str:
        return self._transport.segment

    def register(self, address: int, num_bytes: int) -> None:
        self._transport.register(address, num_bytes)

    def write(self, target_segment: str, fragments: Sequence[Fragment]) -> None:
        ends_at = self._clock() + sum(f.num_bytes for f in fragments) / self._bytes_per_s
        self._transport.write(target_segment, fragments)
        left_s = ends_at - self._clock()
        if left_s > 0:
            self._sleep(left_s)

    def close(self) -> None:
        self._transport.close()
