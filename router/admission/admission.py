"""Lets turns in, one by one, as far as the workers can run them. The others wait here, in a bounded
queue, and not on the workers, which know no tenants and no priorities.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Hashable
from dataclasses import dataclass

from router.admission.hints import RetryHints
from router.admission.waiting import Place, WaitingTurns
from router.config import RouterConfig
from segue.api.errors import DeadlineExceeded, Draining, Overloaded, SegueError
from segue.process.telemetry import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """A turn that wants a place."""

    name: Hashable
    """For `Admission.cancel`."""
    tenant: str = ""
    priority: int = 0
    size_bytes: int = 0
    """Of its request, which is kept while it waits."""
    deadline_s: float = float("inf")
    """How long its client waits for the whole answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """Turns that were in flight when a drain started."""

    ended: int
    left: int
    """Those that ran out of its time."""


class Admission:
    """Counts the turns that were let in, and knows those that wait. One event loop owns it."""

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
        """Those that were let in and have not left."""
        self.is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def enter(self, asking: Asking) -> None:
        """Takes a place, which `leave` gives back. Waits for one if there is none, or if others
        wait.

        Raises Overloaded if there is no room to wait or none was free in time, Unavailable while
        the router drains, DeadlineExceeded, and the error given to `cancel`.
        """
        if self.is_draining:
            raise draining_error()
        if self.num_turns < self._capacity and not len(self.waiting):
            self._let_in()
            return
        if not self.waiting.has_room(asking.tenant, asking.size_bytes):
            raise self._overloaded(
                f"{self.num_turns} turns are in flight and {len(self.waiting)} wait, as many as may"
            )
        assert asking.name not in self._by_name, "a turn id is used by one call at a time"
        await self._wait(asking)

    def leave(self) -> None:
        self.num_turns -= 1
        self._let_in_waiting()
        if not self.num_turns:
            self._idle.set()

    def cancel(self, name: Hashable, error: SegueError) -> bool:
        """Makes a waiting turn's `enter` raise the error. Returns whether it waits."""
        waiter = self._by_name.get(name)
        return waiter is not None and _fail(waiter, error)

    def set_capacity(self, num_turns: int | None) -> None:
        """How many turns the workers can have; None if that is not known."""
        most = self._config.max_turns
        self._capacity = most if num_turns is None else min(num_turns, most)
        self._let_in_waiting()

    async def drain(self, timeout_s: float) -> Drained:
        """Admits no more turns, and returns when none is in flight or the time is over."""
        self.is_draining = True
        running = self.num_turns
        for waiter in list(self._by_name.values()):
            _fail(waiter, draining_error())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        return Drained(ended=running - self.num_turns, left=self.num_turns)

    async def _wait(self, asking: Asking) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        place = Place(waiter, asking.tenant, asking.priority, asking.size_bytes)
        timeout_s = min(self._config.queue_timeout_s, asking.deadline_s)
        timer = loop.call_later(timeout_s, self._waited_too_long, waiter, asking)
        self.waiting.add(place)
        self._by_name[asking.name] = waiter
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # Its client left just after it was let in.
                self.leave()
            else:
                self.waiting.remove(place)
            raise
        finally:
            timer.cancel()
            del self._by_name[asking.name]

    def _waited_too_long(self, waiter: asyncio.Future[None], asking: Asking) -> None:
        limit_s = self._config.queue_timeout_s
        if asking.deadline_s < limit_s:
            _fail(waiter, DeadlineExceeded("the turn ran out of its time while it waited"))
        elif not waiter.done():
            late = f"no place was free within {limit_s:g} s ([router] queue_timeout_s)"
            _fail(waiter, self._overloaded(late))

    def _let_in(self) -> None:
        self.num_turns += 1
        self._idle.clear()

    def _let_in_waiting(self) -> None:
        while len(self.waiting) and self.num_turns < self._capacity and not self.is_draining:
            waiter = self.waiting.take()
            # One that is done already leaves as soon as its task runs.
            if not waiter.done():
                self._let_in()
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
    """Returns whether it waited."""
    if waiter.done():
        return False
    waiter.set_exception(error)
    return True
