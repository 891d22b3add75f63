"""The life of a gateway's process: how long it serves, and the order to end."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Life:
    drain_asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by an operator: the gateway finishes its requests, and the process ends."""
    serves_since: float = field(default_factory=time.monotonic)

    def shown(self) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "uptime_s": time.monotonic() - self.serves_since,
            "draining": self.drain_asked.is_set(),
        }
