"""Admits turns as fast as the workers can run them. The others wait here, in a bounded queue, and
not on the workers, which know neither tenants nor priorities.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from router.admission.waiting import Place, WaitingTurns
from router.config import RouterConfig
from segue.api.cluster.drain import DrainReport
from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.errors import DeadlineExceeded, Draining, Overloaded, SegueError
from segue.api.types import Role
from segue.process.telemetry import Clock

# Turns beyond those that run, so that a worker whose turn ends does not wait for its next one: a
# quarter, or this many per worker if that is more.
_SPARE_PER_WORKER = 2
# Smallest weight of the newest turn in the running mean of turn durations.
_SMOOTHING = 0.1
_MIN_RETRY_S = 0.05
_MAX_RETRY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRequest:
    name: Hashable
    """For `Admission.cancel`."""
    tenant: str = ""
    priority: int = 0
    size_bytes: int = 0
    """Memory of the turn's request while it waits."""
    deadline_s: float = float("inf")
    """How long the client waits for the whole answer."""


class Admission:
    """Counts the admitted turns and queues the others. One event loop owns it."""

    def __init__(self, config: RouterConfig, *, clock: Clock = time.monotonic) -> None:
        self._config = config
        self._capacity = config.max_turns
        self._hints = RetryHints(clock)
        self.turn_took = self._hints.turn_took
        self.waiting: WaitingTurns[asyncio.Future[None]] = WaitingTurns(
            config.max_queued, config.max_queued_bytes
        )
        self._by_name: dict[Hashable, asyncio.Future[None]] = {}
        self.num_turns = 0
        """Turns that were admitted and have not left."""
        self.is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def enter(self, request: AdmissionRequest) -> None:
        """Takes a place, which `leave` returns. Waits if no place is free or other turns wait.

        Raises Overloaded if the queue is full or no place became free in time, Draining while the
        router drains, DeadlineExceeded, and the error passed to `cancel`.
        """
        if self.is_draining:
            raise draining_error()
        if self.num_turns < self._capacity and not len(self.waiting):
            self._admit()
            return
        if not self.waiting.has_room(request.tenant, request.size_bytes):
            raise self._overloaded(
                f"the queue is full: {self.num_turns} turns are in flight and "
                f"{len(self.waiting)} wait"
            )
        assert request.name not in self._by_name, "a turn id is used by one call at a time"
        await self._wait(request)

    def leave(self) -> None:
        self.num_turns -= 1
        self._admit_waiting()
        if not self.num_turns:
            self._idle.set()

    def cancel(self, name: Hashable, error: SegueError) -> bool:
        """Makes a waiting turn's `enter` raise the error. Returns whether it was waiting."""
        waiter = self._by_name.get(name)
        return waiter is not None and _fail(waiter, error)

    def set_capacity(self, num_turns: int | None) -> None:
        """`num_turns`: the most that the workers can have; None if unknown."""
        most = self._config.max_turns
        self._capacity = most if num_turns is None else min(num_turns, most)
        self._admit_waiting()

    async def drain(self, timeout_s: float) -> DrainReport:
        """Admits no more turns. Returns when none is in flight, or after `timeout_s`."""
        self.is_draining = True
        running = self.num_turns
        for waiter in list(self._by_name.values()):
            _fail(waiter, draining_error())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        return DrainReport(ended_turns=running - self.num_turns, moved_turns=self.num_turns)

    async def _wait(self, request: AdmissionRequest) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        place = Place(waiter, request.tenant, request.priority, request.size_bytes)
        timeout_s = min(self._config.queue_timeout_s, request.deadline_s)
        timer = loop.call_later(timeout_s, self._waited_too_long, waiter, request)
        self.waiting.add(place)
        self._by_name[request.name] = waiter
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # The client left just after the turn was admitted.
                self.leave()
            else:
                self.waiting.remove(place)
            raise
        finally:
            timer.cancel()
            del self._by_name[request.name]

    def _waited_too_long(self, waiter: asyncio.Future[None], request: AdmissionRequest) -> None:
        limit_s = self._config.queue_timeout_s
        if request.deadline_s < limit_s:
            _fail(waiter, DeadlineExceeded("the turn's deadline passed while it was queued"))
        elif not waiter.done():
            late = f"no place was free within {limit_s:g} s ([router] queue_timeout_s)"
            _fail(waiter, self._overloaded(late))

    def _admit(self) -> None:
        self.num_turns += 1
        self._idle.clear()

    def _admit_waiting(self) -> None:
        while len(self.waiting) and self.num_turns < self._capacity and not self.is_draining:
            waiter = self.waiting.take()
            # The task of one that has failed or was cancelled has not run yet.
            if not waiter.done():
                self._admit()
                waiter.set_result(None)

    def _overloaded(self, message: str) -> Overloaded:
        num_ahead = self.num_turns + len(self.waiting)
        return Overloaded.after(
            f"{message}; try again after the hinted time",
            retry_after_s=self._hints.promise_s(num_ahead),
        )


def draining_error() -> Draining:
    """Clients of the SDK send the turn to another router, or wait for this one's successor."""
    return Draining("the router is draining; send the turn to another router, or here later")


def _fail(waiter: asyncio.Future[None], error: SegueError) -> bool:
    """Returns whether it was waiting."""
    if waiter.done():
        return False
    waiter.set_exception(error)
    return True


def capacity_of(workers: Iterable[WorkerStatus]) -> int | None:
    """The number of turns that the workers can have. Only decode workers count: a turn is on one
    from its reservation to its end. None if unknown: no decode worker is ready, or one does not
    report its limit.
    """
    ready = [
        worker.load.max_turns
        for worker in workers
        if worker.role is Role.DECODE and worker.health is WorkerHealth.READY
    ]
    if not ready or not all(ready):
        return None
    return sum(ready) + max(sum(ready) // 4, _SPARE_PER_WORKER * len(ready))


class RetryHints:
    """When refused clients should try again. They form a virtual queue: each gets the time at which
    a place is expected to be free for it, later than the times given to the clients before it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mean_turn_s = 1.0
        self._num_ended = 0
        self._promised_until = 0.0
        """When a place is expected to be free for the last refused client."""

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
