"""The controller: orders, room, failures and its reports to the routers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.api.cluster.fleet import Reloaded, ReloadOrder, ScaleOrder, WorkerCounts
from segue.api.cluster.status import WorkerHealth
from segue.api.errors import InvalidConfig, InvalidRequest, Unavailable
from segue.api.types import Role
from segue.launch.config import Config
from segue.launch.scale.controller import Controller
from segue.launch.scale.fleet import Fleet
from tests.launch.scale.fakes import FakeRoom, FakeRouter, FakeWorker, Workers
from tests.router.placed import ManualClock


class World:
    """One prefill and one decode worker, two routers, and a controller."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.workers = Workers({n: FakeWorker(n) for n in ("prefill-0", "decode-0")})
        self.routers = [FakeRouter(self.workers), FakeRouter(self.workers)]
        self.room = FakeRoom()
        self.lines: list[str] = []
        self.again = Config()
        serving = {(role, 0): self.workers.all[f"{role.value}-0"] for role in Role}
        fleet = Fleet(serving, self.workers.start, self.lines.append, self.clock)
        self.controller = Controller(
            Config(),
            fleet,
            self.routers,
            self.room,
            reload=self.reload,
            report=self.lines.append,
            clock=self.clock,
        )

    def reload(self, effective: Config) -> tuple[Config, Reloaded]:
        if self.again.cluster.routers != effective.cluster.routers:
            raise InvalidConfig("a running cluster cannot change [cluster] routers")
        return self.again, Reloaded(applied=("[cluster] decode",))

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.now += 1.0
            self.controller.look()

    def settle(self) -> None:
        for _ in range(10):
            self.look()
            self.workers.come_up()
            self.workers.leave()
        self.look()

    @property
    def names(self) -> list[str]:
        return sorted(self.workers.here())

    @property
    def changes(self) -> tuple[str, ...]:
        return self.routers[0].sent[-1].fleet.changes


def test_an_order_starts_workers_and_is_reported_to_all_routers() -> None:
    world = World()
    name = world.routers[1].give(ScaleOrder(decode=3))
    world.look()

    assert world.routers[1].answer(name).error is None
    assert world.names == ["decode-0", "decode-1", "decode-2", "prefill-0"]
    for router in world.routers:
        fleet = router.sent[-1].fleet
        assert (fleet.has_launcher, fleet.counts) == (True, WorkerCounts(prefill=1, decode=3))
        assert fleet.changes == (
            "decode-1 has been starting for 0 s",
            "decode-2 has been starting for 0 s",
        )
    world.settle()
    assert world.changes == ()


def test_a_worker_that_leaves_is_drained_first_and_ended_when_it_has_left() -> None:
    world = World()
    world.routers[0].give(ScaleOrder(decode=2))
    world.settle()
    world.workers.all["decode-0"].sessions = 3
    world.routers[0].give(ScaleOrder(decode=1))
    world.look()

    leaving = world.workers.all["decode-1"]
    assert (leaving.is_retiring, leaving.has_ended) == (True, False)
    assert world.changes == ("decode-1 has been leaving for 0 s; 0 turns and 0 sessions are there",)
    world.settle()
    assert leaving.has_ended
    assert world.names == ["decode-0", "prefill-0"]
    assert "decode-1 left: 0 turns ended" in world.lines


def test_a_later_order_replaces_the_first_while_it_runs() -> None:
    world = World()
    world.routers[0].give(ScaleOrder(prefill=3, decode=3))
    world.look()
    world.routers[1].give(ScaleOrder(prefill=2, decode=1))
    world.settle()

    assert world.names == ["decode-0", "prefill-0", "prefill-1"]
    assert world.workers.all["decode-1"].has_ended
    assert not world.workers.all["decode-1"].is_retiring, "it had nothing to drain"


def test_more_than_there_is_room_for_is_refused_and_changes_nothing() -> None:
    world = World()
    world.room.largest = 3
    name = world.routers[0].give(ScaleOrder(prefill=2, decode=2))
    world.look()

    error = world.routers[0].answer(name).error
    assert isinstance(error, InvalidRequest)
    assert "no room for 2 prefill and 2 decode workers: 4 GPUs, but 1 is free" in str(error)
    assert world.names == ["decode-0", "prefill-0"]
    assert world.room.requested == []


def test_a_failed_start_is_reported_and_can_be_cancelled() -> None:
    world = World()
    world.routers[0].give(ScaleOrder(decode=2))
    world.look()
    world.workers.all["decode-1"].failure = Unavailable("no space left on device")
    world.look(3)

    assert world.changes == (
        "decode-1 has been starting for 3 s and did not come up: no space left on device",
    )
    assert len([line for line in world.lines if "does not start" in line]) == 1
    world.routers[0].give(ScaleOrder(decode=1))
    world.look()
    assert world.workers.all["decode-1"].has_ended
    assert world.changes == ()


def test_none_leaves_while_the_others_are_not_ready_or_no_router_answers() -> None:
    world = World()
    world.routers[0].give(ScaleOrder(decode=2))
    world.settle()
    world.workers.all["decode-0"].health = WorkerHealth.LOST
    world.workers.all["decode-1"].health = WorkerHealth.LOST
    world.routers[0].give(ScaleOrder(decode=1))
    world.look(3)
    assert world.names == ["decode-0", "decode-1", "prefill-0"]

    for worker in world.workers.all.values():
        worker.health = WorkerHealth.READY
    for router in world.routers:
        router.is_away = True
    world.look(3)
    assert not any(worker.is_retiring for worker in world.workers.all.values())

    world.routers[1].is_away = False
    world.settle()
    assert world.names == ["decode-0", "prefill-0"]


def test_without_ray_nothing_starts() -> None:
    world = World()
    world.routers[0].give(ScaleOrder(decode=2))
    world.controller.look(may_act=False)
    assert world.names == ["decode-0", "prefill-0"]

    world.look()
    assert "decode-1" in world.names


def test_a_reload_scales_to_the_files_numbers_only_if_those_have_changed() -> None:
    world = World()
    world.routers[0].give(ScaleOrder(decode=2))
    world.settle()
    world.routers[0].give(ReloadOrder())
    world.settle()
    assert "decode-1" in world.names, "the file has not changed"

    world.again = replace(Config(), cluster=replace(Config().cluster, prefill=2))
    world.routers[0].give(ReloadOrder())
    world.settle()
    assert world.names == ["decode-0", "prefill-0", "prefill-1"]


def test_a_reload_that_is_refused_changes_nothing() -> None:
    world = World()
    world.again = replace(Config(), cluster=replace(Config().cluster, routers=2, decode=4))
    name = world.routers[0].give(ReloadOrder())
    world.look()

    assert isinstance(world.routers[0].answer(name).error, InvalidConfig)
    assert world.names == ["decode-0", "prefill-0"]
    with pytest.raises(InvalidConfig):
        world.controller.reload()


def test_the_wanted_numbers_are_requested_of_rays_autoscaler_once() -> None:
    world = World()
    world.routers[0].give(ScaleOrder(decode=2))
    world.routers[0].give(ScaleOrder(decode=2))
    world.settle()

    assert world.room.requested == [WorkerCounts(prefill=1, decode=2)]


def test_a_reload_requests_nodes_for_the_numbers_that_are_wanted() -> None:
    world = World()
    world.routers[0].give(ScaleOrder(decode=2))
    world.settle()
    world.routers[0].give(ReloadOrder())
    world.settle()

    assert world.room.requested == [WorkerCounts(prefill=1, decode=2)] * 2


def test_nothing_changes_if_rays_autoscaler_cannot_be_asked() -> None:
    world = World()
    world.room.is_away = True
    name = world.routers[0].give(ScaleOrder(decode=2))
    world.settle()

    assert isinstance(world.routers[0].answer(name).error, Unavailable)
    assert world.names == ["decode-0", "prefill-0"]
