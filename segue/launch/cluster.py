"""A running cluster: Ray, the routers, the workers, and the order in which they start and stop."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from segue.api.cluster.status import ClusterStatus
from segue.api.errors import SegueError, Unavailable
from segue.api.types import Role
from segue.launch.config import Config
from segue.launch.drain import draining_words, leave_in_order, stop_routers
from segue.launch.prepare import PreparedCluster, Report, consecutive, most_threads, prepare
from segue.launch.ray.actors import GatewayActor, RouterActor, node_address
from segue.launch.ray.demand import Demand, demands_of
from segue.launch.ray.room import NodeRequest
from segue.launch.ray.start import logs_folder, nodes_in_all, require_room, running_ray
from segue.launch.ray.starting import StartedWorker, actor_of, await_started, start_worker
from segue.security.config import Security
from segue.wire.addresses import Hosts

logger = logging.getLogger(__name__)

SPIN_COUNT = "20000"
"""Spin rounds of a waiting OpenMP thread: 0.4 ms on a Zen 4 core, 0.9 ms with longer pauses."""
_ASK_TIMEOUT_S = 5.0
_JOIN_TIMEOUT_S = 30.0
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """`addresses` are the routers', which clients connect to; `http_addresses` the gateways'."""

    addresses: tuple[str, ...]
    http_addresses: tuple[str, ...]
    config: Config
    security: Security
    """With the secret: to call workers as the router does."""
    routers: tuple[Any, ...]
    gateways: tuple[Any, ...]
    workers: dict[str, StartedWorker]
    """By worker id. While the cluster runs, workers are added and removed."""
    model: str
    """The folder or hub id that workers load."""
    nodes: NodeRequest
    """Withdrawn at the end."""
    cleanup: contextlib.ExitStack
    """Ends the processes that are left."""

    @property
    def address(self) -> str:
        return client_target(self.addresses)

    @property
    def router(self) -> Any:
        """The first one."""
        return self.routers[0]

    def start_worker(self, role: Role, index: int, config: Config) -> None:
        """Starts another worker, which ends with the cluster."""
        worker = start_worker(role, index, config, self.model, self.addresses, self.security)
        self.workers[Demand(role=role, index=index).process] = worker
        self.cleanup.callback(worker.kill)

    def processes(self) -> dict[str, Any]:
        """The Ray actors that serve, by the names of their processes."""
        routers = {Demand(index=index).process: r for index, r in enumerate(self.routers)}
        gateways = {gateway_name(index): g for index, g in enumerate(self.gateways)}
        workers = {name: worker.actor for name, worker in self.workers.items()}
        return {**routers, **gateways, **workers}


def gateway_name(index: int) -> str:
    return f"gateway-{index}" if index else "gateway"


def client_target(addresses: Sequence[str]) -> str:
    """The target for a client of these routers."""
    return ",".join(addresses)


@contextlib.contextmanager
def running_cluster(config: Config, report: Report) -> Iterator[Cluster]:
    """Starts everything, yields when turns can be served, drains and stops on exit.

    Raises InvalidCheckpoint, InvalidConfig (port taken, too little memory) and Unavailable.
    """
    with running_prepared(prepare(config, report), report) as cluster:
        yield cluster


@contextlib.contextmanager
def running_prepared(
    prepared: PreparedCluster, report: Report, hurry: threading.Event | None = None
) -> Iterator[Cluster]:
    """As `running_cluster`, with the result of `prepare`. Setting `hurry` ends draining."""
    config = prepared.config
    demands = demands_of(config)
    if not config.cluster.ray_address:
        _share_cores(most_threads(config))
    with (
        running_ray(config.cluster.ray_address, demands, report),
        contextlib.ExitStack() as cleanup,
    ):
        nodes = NodeRequest()
        cleanup.callback(nodes.withdraw)
        if config.cluster.ray_autoscales:
            nodes.ask(demands, nodes_in_all())
        require_room(demands, config.cluster.room_timeout_s, report)
        report(f"logs are in {logs_folder()}: segue-*.log")
        hurry = hurry or threading.Event()
        cluster = _start(prepared, demands, report, nodes, cleanup, hurry)
        yield cluster
        finish_turns(cluster, report, hurry)


def finish_turns(cluster: Cluster, report: Report, hurry: threading.Event) -> None:
    """Drains the cluster and stops its workers, until `hurry` is set."""
    drain_s = cluster.config.router.drain_s
    report(draining_words(cluster.routers, drain_s))
    workers = [worker.actor for worker in cluster.workers.values()]
    leave_in_order(cluster.routers, workers, drain_s, hurry, gateways=cluster.gateways)


def _start(
    prepared: PreparedCluster,
    demands: Sequence[Demand],
    report: Report,
    nodes: NodeRequest,
    cleanup: contextlib.ExitStack,
    hurry: threading.Event,
) -> Cluster:
    config, model, security = prepared.config, prepared.model, prepared.security
    timeout_s = config.cluster.start_timeout_s
    router_demands = demands[: config.cluster.routers]
    report("starting the router" if len(router_demands) == 1 else "starting the routers")
    routers = []
    for demand, router_config in zip(router_demands, _router_configs(prepared), strict=True):
        actor = actor_of(RouterActor, demand).remote(router_config, model, demand.process, security)
        # Stops last, when its turns have drained and the workers hold nothing.
        cleanup.callback(_kill, actor)
        routers.append(actor)

    def await_routers() -> list[str]:
        return [
            await_started(actor, demand.process, timeout_s, report)
            for actor, demand in zip(routers, router_demands, strict=True)
        ]

    # On this machine their addresses are known, so that the other processes can start meanwhile.
    addresses = await_routers() if config.cluster.ray_address else _addresses_here(prepared)
    # Before the gateways: they take longest to start.
    workers: dict[str, StartedWorker] = {}
    for demand in demands[len(routers) :]:
        assert demand.role is not None, "after the routers come workers"
        worker = start_worker(demand.role, demand.index, config, model, addresses, security)
        workers[demand.process] = worker
        cleanup.callback(worker.kill)
    gateways: dict[str, Any] = {}
    for index, port in enumerate(prepared.gateway_ports):
        # On a router's node, where the extra hop costs least.
        gateway = actor_of(GatewayActor, router_demands[0]).remote(
            replace(config.gateway, port=port),
            gateway_name(index),
            client_target(addresses),
            replace(security, secret=None),
        )
        cleanup.callback(_kill, gateway)
        gateways[gateway_name(index)] = gateway
    # Runs first: the routers accept no new turns, and the running ones end.
    cleanup.callback(stop_routers, routers, config.router.drain_s, hurry)
    addresses = await_routers()
    for worker_id, worker in workers.items():
        report(f"loading the model in {worker_id}")
        await_started(worker.actor, worker_id, timeout_s, report)
    report("waiting for the workers to join")
    for router in routers:
        _await_joined(router, config)
    http_addresses = [
        await_started(gateway, name, timeout_s, report) for name, gateway in gateways.items()
    ]
    return Cluster(
        addresses=tuple(addresses),
        http_addresses=tuple(http_addresses),
        config=config,
        security=security,
        routers=tuple(routers),
        gateways=tuple(gateways.values()),
        workers=workers,
        model=model,
        nodes=nodes,
        cleanup=cleanup,
    )


def _addresses_here(prepared: PreparedCluster) -> list[str]:
    """The addresses of routers on this machine."""
    router = prepared.config.router
    hosts = Hosts.of(router.host, router.announce, node_address)
    return [hosts.at(port) for port in prepared.router_ports]


def _router_configs(prepared: PreparedCluster) -> Iterator[Config]:
    """The configuration of each router, which has its own ports."""
    config = prepared.config
    metrics_ports = consecutive(config.router.metrics_port, config.cluster.routers)
    for port, metrics_port in zip(prepared.router_ports, metrics_ports, strict=True):
        router = replace(config.router, port=port, metrics_port=metrics_port)
        yield replace(config, router=router)


def _share_cores(num_threads: int) -> None:
    """Sets variables for the processes that Ray starts here; they inherit our environment.

    An OpenMP thread that waits for the next product spins for less than a millisecond, then sleeps.
    Without spinning, a decode step took 258 ms instead of 136 ms, because waking a sleeping core
    costs as long as a small product. Spinning without limit, two workers on two cores took 433 ms
    for a step of 47 ms while a prompt was computed. Ray would set one thread for OpenMP, which
    torch's own setting does not undo for all of its matrix products.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    os.environ.setdefault("OMP_NUM_THREADS", str(num_threads))


def _await_joined(router: Any, config: Config) -> None:
    """Waits until every worker has joined the router, so that the first turn finds all of them.
    Raises Unavailable, naming what is missing."""
    num_workers = config.cluster.prefill + config.cluster.decode
    until = time.monotonic() + _JOIN_TIMEOUT_S
    while missing := _missing(router, num_workers):
        if time.monotonic() > until:
            raise Unavailable(f"the cluster did not become ready: {missing}")
        time.sleep(_LOOK_EVERY_S)


def _missing(router: Any, num_workers: int) -> str:
    try:
        status: ClusterStatus = ray.get(router.status.remote(), timeout=_ASK_TIMEOUT_S)
    except (RayActorError, GetTimeoutError, SegueError) as error:
        # For example while Ray restarts the router.
        return f"the router does not answer: {error}"
    return status.missing(num_workers)


def _kill(actor: Any) -> None:
    ray.kill(actor, no_restart=True)
