"""Calls to Ray actors that nobody waits for."""

from __future__ import annotations

from typing import Any

import ray


class PendingCall:
    """A call to an actor, polled until it is over."""

    def __init__(self, call: Any) -> None:
        self._call = call

    @property
    def is_over(self) -> bool:
        return self.ends_within(0.0)

    def ends_within(self, timeout_s: float) -> bool:
        over, _ = ray.wait([self._call], timeout=timeout_s)
        return bool(over)

    def result(self) -> Any:
        """The result of a call that is over. Raises RayError."""
        return ray.get(self._call)
