"""The controller of a cluster's size, over Ray."""

from __future__ import annotations

import time
from collections.abc import Callable

from segue.api.cluster.fleet import Reloaded
from segue.api.types import Role
from segue.launch.cluster import Cluster
from segue.launch.config import Config
from segue.launch.prepare import Report
from segue.launch.ray.room import RayRoom
from segue.launch.ray.workers import RayRouter, RayWorker
from segue.launch.scale.controller import Controller
from segue.launch.scale.fleet import Fleet
from segue.launch.scale.plan import name_of
from segue.launch.scale.reload import reloaded

_TOLD_S = 2.0
"""A router that does not answer for so long is told later."""


def controller_of(
    cluster: Cluster, asked: Config, read_again: Callable[[], Config], report: Report
) -> Controller:
    """`asked`: the configuration as it was read, and `read_again` reads it once more. When this
    returns, routers take orders for the controller."""
    last = [asked]

    def reload(effective: Config) -> tuple[Config, Reloaded]:
        again = read_again()
        config, changes = reloaded(last[0], again, effective)
        last[0] = again
        return config, changes

    def worker_of(name: str) -> RayWorker:
        return RayWorker(name, cluster.workers[name], lambda name: _forget(cluster, name))

    def start(role: Role, index: int) -> RayWorker:
        cluster.start_worker(role, index, controller.config)
        return worker_of(name_of(role, index))

    settings = cluster.config.cluster
    keys = [(Role.PREFILL, index) for index in range(settings.prefill)]
    keys += [(Role.DECODE, index) for index in range(settings.decode)]
    fleet = Fleet({key: worker_of(name_of(*key)) for key in keys}, start, report, time.monotonic)
    routers = [RayRouter(router) for router in cluster.routers]
    controller = Controller(
        cluster.config,
        fleet,
        routers,
        RayRoom(cluster.model, cluster.nodes),
        reload=reload,
        report=report,
        clock=time.monotonic,
    )
    controller.look(may_act=False)
    for router in routers:
        router.wait_until_told(_TOLD_S)
    return controller


def _forget(cluster: Cluster, name: str) -> None:
    """It is no longer watched, nor stopped with the others."""
    cluster.workers.pop(name, None)
