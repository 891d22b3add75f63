"""The controller of a cluster's size, over Ray."""

from __future__ import annotations

import time
from collections.abc import Callable

from segue.api.cluster.fleet import Reloaded, WorkerCounts
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

_SENT_S = 2.0
"""The first report to a router that does not answer in this time is delayed."""


def controller_of(
    cluster: Cluster, asked: Config, read_again: Callable[[], Config], report: Report
) -> Controller:
    """`asked`: the configuration as read; `read_again` reads it again. When this returns, the
    routers accept orders for the controller."""
    last = [asked]

    def reload(effective: Config) -> tuple[Config, Reloaded]:
        again = read_again()
        config, changes = reloaded(last[0], again, effective)
        last[0] = again
        return config, changes

    def forget(name: str) -> None:
        """The worker is no longer watched, nor stopped with the others."""
        cluster.workers.pop(name, None)

    def worker_of(name: str) -> RayWorker:
        return RayWorker(name, cluster.workers[name], forget)

    def start(role: Role, index: int) -> RayWorker:
        cluster.start_worker(role, index, controller.config)
        return worker_of(name_of(role, index))

    settings = cluster.config.cluster
    configured = WorkerCounts(prefill=settings.prefill, decode=settings.decode)
    keys = [(role, index) for role in Role for index in range(configured.of(role))]
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
        router.wait_until_sent(_SENT_S)
    return controller
