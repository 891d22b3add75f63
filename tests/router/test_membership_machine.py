"""The table of workers under random lives: late, repeated and reordered heartbeats, silence, deaths
and rebirths, against a naive model.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from router.membership.membership import Membership
from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.errors import StaleEpoch
from segue.api.types import Epoch, Role, WorkerId
from tests.virtual.clock import VirtualLoop

TIMEOUT_S, FORGET_S, LOOK_S = 2.0, 30.0, 0.5
names = st.sampled_from([WorkerId("prefill-0"), WorkerId("decode-0")])
# A life is a number from 0 on; any earlier one may still send.
lives = st.integers(0, 3)
healths = st.sampled_from([WorkerHealth.READY, WorkerHealth.DRAINING])


@dataclass
class Known:
    """What the router should know of a worker."""

    epoch: int
    health: WorkerHealth
    seen_at: float
    lost_at: float | None = None


class MembershipMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.known: dict[WorkerId, Known] = {}
        self.latest: dict[WorkerId, int] = {}
        """The latest life that was ever accepted."""
        self.gone: list[tuple[WorkerId, int]] = []
        self.statuses: list[WorkerStatus] = []
        self.gone_statuses: list[WorkerStatus] = []
        self.membership = Membership(
            model_id="m",
            heartbeat_timeout_s=TIMEOUT_S,
            forget_lost_s=FORGET_S,
            clock=lambda: self.now,
            on_status=self.statuses.append,
            on_gone=self.gone_statuses.append,
        )
        self.last_view: list[WorkerStatus] = []
        self.loop = VirtualLoop()
        self.reading = self.loop.create_task(self.read_views())

    @rule(name=names, life=lives, health=healths)
    def heartbeat(self, name: WorkerId, life: int, health: WorkerHealth) -> None:
        """From any life, however old: a message may be late."""
        status = status_of(name, life, health)
        if life < self.latest.get(name, 0):
            with pytest.raises(StaleEpoch):
                self.membership.heartbeat(status, "m")
            return
        self.membership.heartbeat(status, "m")
        self.latest[name] = life
        self.known[name] = Known(life, health, self.now)
        assert self.statuses[-1] == status

    @rule(name=names, life=lives)
    def stream_breaks(self, name: WorkerId, life: int) -> None:
        self.membership.lost(name, epoch_of(life))
        known = self.known.get(name)
        if known is not None and known.epoch == life and known.lost_at is None:
            known.lost_at = self.now

    @rule(name=names, life=lives)
    def leave(self, name: WorkerId, life: int) -> None:
        self.membership.left(name, epoch_of(life))
        if name in self.known and self.known[name].epoch == life:
            self.forget(name)

    @rule(seconds=st.sampled_from([0.1, 1.0, TIMEOUT_S + 0.1, FORGET_S]))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + LOOK_S)
            self.membership.notice_silence()
            self.silence_is_noticed()

    def silence_is_noticed(self) -> None:
        for name, known in list(self.known.items()):
            if known.lost_at is None:
                if known.seen_at < self.now - TIMEOUT_S:
                    known.lost_at = self.now
            elif known.lost_at <= self.now - FORGET_S:
                self.forget(name)

    def forget(self, name: WorkerId) -> None:
        self.gone.append((name, self.known.pop(name).epoch))

    @invariant()
    def it_knows_the_latest_life_of_each_worker(self) -> None:
        expected = {
            name: (k.epoch, WorkerHealth.LOST if k.lost_at is not None else k.health)
            for name, k in self.known.items()
        }
        workers = self.membership.workers()
        assert {w.worker_id: (w.epoch - 1, w.health) for w in workers} == expected
        assert len(workers) == len(expected)

    @invariant()
    def each_end_was_reported_once(self) -> None:
        assert [(w.worker_id, w.epoch - 1) for w in self.gone_statuses] == self.gone

    @invariant()
    def every_change_reaches_the_members(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0.001))
        keys = [(w.epoch, w.address, w.health) for w in self.membership.workers()]
        assert [(w.epoch, w.address, w.health) for w in self.last_view] == keys

    async def read_views(self) -> None:
        async for view in self.membership.views():
            self.last_view = view

    def teardown(self) -> None:
        self.reading.cancel()
        self.loop.run_until_complete(asyncio.wait({self.reading}))
        self.loop.close()


def epoch_of(life: int) -> Epoch:
    return Epoch(life + 1)


def status_of(name: WorkerId, life: int, health: WorkerHealth) -> WorkerStatus:
    role = Role(name.split("-")[0])
    return WorkerStatus(
        worker_id=name, role=role, epoch=epoch_of(life), address=f"{name}:{life}", health=health
    )


MembershipMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],
)
TestMembership = MembershipMachine.TestCase
