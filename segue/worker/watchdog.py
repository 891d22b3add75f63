"""Notices an engine thread that makes no progress, although its process lives.

    engine thread    beat ── beat ── beat ── …         a layer of a pass, a step
    event loop       every second: checks for a beat

Heartbeats come from the event loop, which never waits for the engine. So a worker whose pass never
ends (a device that hangs, a deadlock) would hold its turns until their deadlines, and get more.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from dataclasses import dataclass
from typing import Protocol

from segue.api.cluster.status import WorkerHealth

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
NOTICE_S = 2.0
"""From the report that the engine is stuck to the end of the process: some heartbeats, so that the
routers learn why it ends, and continue its turns elsewhere before its connections break."""

# Far slower than any machine that can serve the model: a false alarm ends a process.
_SLOWEST_FLOPS = {"cpu": 2e9, "cuda": 1e12}
# With a short pass it is below `[router] queue_timeout_s`: turns that wait for a place are not
# refused before those on a stuck worker continue elsewhere.
_LEAST_S = 20.0
# The first pass of a shape compiles kernels, a dozen at worst.
_COMPILING_S = {"cpu": 0.0, "cuda": 300.0}
_HANDSHAKE_S = 61.0
"""Mooncake's, with a peer that hangs."""
_MOST_QUEUED_BATCHES = 16


class EngineStuck(RuntimeError):
    """The process must end: the thread cannot be ended alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long an engine thread may be silent before it counts as stuck."""

    pass_s: float = _LEAST_S
    """In the slowest part of a pass."""
    shipping_s: float = _LEAST_S
    """While it waits until the shipping thread takes what a layer has computed."""

    @classmethod
    def of(
        cls,
        *,
        num_params: float,
        num_layers: int,
        width: int,
        vocab_size: int,
        max_context: int,
        pass_tokens: int,
        device: str,
        write_s: float,
    ) -> Patience:
        """For a pass over `pass_tokens` tokens at the end of a context. On a CPU a layer is the
        longest silence, or the logits; on a GPU, which only queues layers, the whole pass is.
        `write_s`: the longest that one write to a peer may take.
        """
        attention = 4.0 * pass_tokens * max_context * width
        layer = 2.0 * pass_tokens * num_params / num_layers + attention
        head = 2.0 * pass_tokens * vocab_size * width
        flop = max(layer, head) if device == "cpu" else layer * num_layers + head
        return cls(
            pass_s=_LEAST_S + _COMPILING_S[device] + flop / _SLOWEST_FLOPS[device],
            shipping_s=_LEAST_S + _HANDSHAKE_S + _MOST_QUEUED_BATCHES * write_s,
        )


class EngineProgress:
    """Written by the engine thread, read by the event loop. Each value is consistent by itself."""

    def __init__(self) -> None:
        self.num_beats = 0
        self.is_working = False
        """False while the thread waits for commands."""
        self.is_shipping = False
        self.thread_id: int | None = None

    def beat(self, *, is_shipping: bool = False) -> None:
        self.is_shipping = is_shipping
        self.is_working = True
        self.num_beats += 1

    def rests(self) -> None:
        self.is_working = False


class Watchdog:
    """The event loop owns it."""

    def __init__(self, patience: Patience) -> None:
        self.progress = EngineProgress()
        self.silent_s = 0.0
        """Since the engine's last beat; 0 while it waits for commands."""
        self._patience = patience
        self._seen = -1

    def tick(self, elapsed_s: float) -> None:
        """Takes the time since the last tick. A late tick counts as two at most: then the whole
        process did not run (SIGSTOP, swapping), and the engine could not beat either."""
        progress = self.progress
        if not progress.is_working or progress.num_beats != self._seen:
            self.silent_s = 0.0
            self._seen = progress.num_beats
        else:
            self.silent_s += min(elapsed_s, 2 * LOOK_EVERY_S)

    @property
    def limit_s(self) -> float:
        patience = self._patience
        return patience.shipping_s if self.progress.is_shipping else patience.pass_s

    @property
    def is_stuck(self) -> bool:
        return self.silent_s > self.limit_s

    def where(self) -> str:
        """The innermost calls of the engine thread, outermost first."""
        frame = sys._current_frames().get(self.progress.thread_id or 0)
        calls = traceback.extract_stack(frame)[-8:] if frame else []
        return " > ".join(f"{call.filename}:{call.lineno} {call.name}" for call in calls)


class Reported(Protocol):
    """The status that the worker reports."""

    health: WorkerHealth


async def end_when_stuck(watchdog: Watchdog, presence: Reported) -> None:
    """Raises EngineStuck, a while after it has reported it in `presence`. Never returns
    otherwise."""
    loop = asyncio.get_running_loop()
    looked_at = loop.time()
    while not watchdog.is_stuck:
        await asyncio.sleep(LOOK_EVERY_S)
        now = loop.time()
        watchdog.tick(now - looked_at)
        looked_at = now
    presence.health = WorkerHealth.STUCK
    silent_s, limit_s = round(watchdog.silent_s, 1), round(watchdog.limit_s, 1)
    logger.critical(
        "the engine is stuck",
        extra={"silent_s": silent_s, "limit_s": limit_s, "where": watchdog.where()},
    )
    await asyncio.sleep(NOTICE_S)
    raise EngineStuck(
        f"the engine made no progress for {silent_s:g} s, expected some within {limit_s:g} s: the "
        "process ends, and its supervisor starts it again"
    )
