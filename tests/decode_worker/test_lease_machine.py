"""Leases in both tiers under random turns, pauses, renewals, forks, ends, evictions and expiries.

In virtual time: copies and returns happen in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from decode_worker.memory.leases import TieredLeases
from segue.api.errors import NotFound
from segue.api.types import SessionId
from tests.cache.prefix_world import LAYOUT, PAGE_TOKENS, prompt
from tests.cache.tiered_world import TieredWorld
from tests.virtual.clock import VirtualLoop

sessions = st.sampled_from([SessionId("a"), SessionId("b"), SessionId("c")])
seconds = st.sampled_from([0.4, 2.0, 10.0])
COPYING_S = 0.2


class TimedWorld(TieredWorld):
    """Its clock is the event loop's."""

    def __init__(self, loop: VirtualLoop, *, host_pages: int) -> None:
        self.loop = loop
        super().__init__(host_pages=host_pages)
        self.leases = TieredLeases(self.cache, self.tier, loop.time)

    @property
    def now(self) -> float:  # type: ignore[override]
        return self.loop.time()

    @now.setter
    def now(self, _: float) -> None:
        pass


class LeaseMachine(RuleBasedStateMachine):
    @initialize(host_pages=st.sampled_from([0, 6, 16]))
    def start(self, host_pages: int) -> None:
        self.loop = VirtualLoop()
        self.loop.thread_s = lambda: COPYING_S
        self.unhandled: list[object] = []
        self.loop.set_exception_handler(lambda _, about: self.unhandled.append(about))
        self.until: dict[SessionId, float] = {}
        """When the session's lease ends, if nothing revokes it."""
        self.longest: dict[SessionId, float] = {}
        """The latest time until which it ever had one."""
        self.lengths: dict[SessionId, int] = {}
        self.world = self.on_loop(lambda: TimedWorld(self.loop, host_pages=host_pages))

    def on_loop(self, do: Callable[[], TimedWorld]) -> TimedWorld:
        async def work() -> TimedWorld:
            return do()

        return self.loop.run_until_complete(work())

    def attempt(self, do: Callable[[], object]) -> bool:
        """Returns whether the session still had a lease."""

        async def work() -> bool:
            try:
                do()
            except NotFound:
                return False
            return True

        return self.loop.run_until_complete(work())

    @property
    def leases(self) -> TieredLeases:
        return self.world.leases

    @rule(session=sessions, num_pages=st.integers(1, 3), lease_s=seconds)
    def turn(self, session: SessionId, num_pages: int, lease_s: float) -> None:
        number = ord(session) - ord("a") + 1
        tokens = prompt(number, num_pages * PAGE_TOKENS + 1)
        if not self.world.cache.make_room(LAYOUT.num_pages_for(len(tokens)), 1):
            return

        def run() -> None:
            hold = self.world.run(tokens, num_pages * PAGE_TOKENS)
            self.leases.grant(session, hold.node, lease_s)
            self.world.cache.release(hold)

        assert self.attempt(run)
        self.until[session] = self.loop.time() + lease_s
        self.lengths[session] = num_pages

    @rule(session=sessions, lease_s=seconds)
    def renew(self, session: SessionId, lease_s: float) -> None:
        self.took(session, self.attempt(lambda: self.leases.renew(session, lease_s)), lease_s)

    @rule(session=sessions, pause_s=seconds, lease_s=seconds)
    def pause(self, session: SessionId, pause_s: float, lease_s: float) -> None:
        had = self.attempt(lambda: self.leases.pause(session, pause_s, lease_s))
        self.took(session, had, pause_s + lease_s)

    def took(self, session: SessionId, had_lease: bool, lease_s: float) -> None:
        if had_lease:
            assert session in self.until
            self.until[session] = self.loop.time() + lease_s
        else:
            self.until.pop(session, None)

    @rule(parent=sessions, child=sessions)
    def fork(self, parent: SessionId, child: SessionId) -> None:
        """Onto a new name: the router refuses a known one."""
        if parent == child or child in self.until:
            return
        self.end(child)
        if self.attempt(lambda: self.leases.fork(parent, child)):
            self.until[child] = self.until[parent]
            self.longest[child] = self.longest[parent]

    @rule(session=sessions)
    def end(self, session: SessionId) -> None:
        self.attempt(lambda: self.leases.end(session))
        self.until.pop(session, None)
        self.longest.pop(session, None)
        assert self.on_device(session) is self.on_host(session) is None
        assert session not in self.leases._returns
        assert session not in self.leases._copies

    @rule(num_pages=st.integers(1, 12), num_slots=st.integers(0, 4))
    def evict(self, num_pages: int, num_slots: int) -> None:
        self.world.cache.make_room(num_pages, num_slots)

    @rule(passing=st.sampled_from([0.0, 0.1, 0.5, 3.0, 15.0]))
    def time_passes(self, passing: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(passing))

    @precondition(lambda self: self.until)
    @rule()
    def a_copy_ends(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(2.5 * COPYING_S))

    @invariant()
    def no_lease_outlives_its_session(self) -> None:
        for session in ("a", "b", "c"):
            until = self.until.get(SessionId(session), 0.0)
            on_device, on_host = self.on_device(session), self.on_host(session)
            assert on_device is None or on_device == until > self.loop.time()
            # Until a turn's copy is complete, the host has the lease of the turn before.
            longest = self.longest[SessionId(session)] = max(
                until, self.longest.get(SessionId(session), 0.0)
            )
            assert on_host is None or self.loop.time() < on_host <= longest

    @invariant()
    def memory_adds_up(self) -> None:
        self.world.check()
        assert self.unhandled == []

    @invariant()
    def what_is_cached_is_right(self) -> None:
        for session, num_pages in self.lengths.items():
            number = ord(session) - ord("a") + 1
            self.world.check_bytes(prompt(number, num_pages * PAGE_TOKENS + 1))

    def on_device(self, session: str) -> float | None:
        lease = self.world.cache.leases.get(SessionId(session))
        return lease.expires_at if lease else None

    def on_host(self, session: str) -> float | None:
        lease = self.world.tier.cache.leases.get(SessionId(session))
        return lease.expires_at if lease else None

    def teardown(self) -> None:
        """Once all sessions have ended, all memory can be taken by others."""
        for session in list(self.until):
            self.end(session)
        self.time_passes(20.0)
        assert self.leases._copies == {}
        assert self.leases._returns == {}
        self.world.evict_all()
        assert self.world.pages.counts().free == self.world.pages.total
        self.leases.close()
        self.loop.run_until_complete(self.world.tier.close())
        self.world.check()
        assert asyncio.all_tasks(self.loop) == set()
        self.loop.close()


LeaseMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLeases = LeaseMachine.TestCase
