"""A running cluster: Ray, one router, the workers, and the order in which they start and stop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from segue.errors import SegueError, Unavailable
from segue.launch.actors import RouterActor, WorkerActor
from segue.launch.config import Config
from segue.launch.model import locate
from segue.types import Role
from segue.wire.server import free_port
from segue.worker_process import WorkerOptions

logger = logging.getLogger(__name__)

Report = Callable[[str], None]
"""Told what is being started, in words for a person."""

_STOP_TIMEOUT_S = 10.0
_OBJECT_STORE_BYTES = 100 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """`address` is the router's: what clients dial."""

    address: str
    config: Config
    router: Any
    workers: dict[str, Any]
    """Ray actors by worker id."""


@contextlib.contextmanager
def running_cluster(config: Config, report: Report) -> Iterator[Cluster]:
    """Starts everything, yields when turns can be served, drains and stops on the way out.

    Raises InvalidCheckpoint, InvalidConfig (a taken port, too little memory) and Unavailable.
    """
    report("finding the model")
    model, config, memory = locate(config, report)
    if memory:
        report(memory)
    config = _with_threads(_with_port(config))
    report("starting Ray" if not config.cluster.ray_address else "joining Ray")
    _share_cores(config.engine.num_threads)
    is_ours = _start_ray(config.cluster.ray_address)
    try:
        with contextlib.ExitStack() as cleanup:
            yield _start(config, model, report, cleanup)
            report("draining")
    finally:
        if is_ours:
            ray.shutdown()


def _start_ray(address: str) -> bool:
    if ray.is_initialized():
        return False
    # The driver's own prints go to people; workers' logs stay in Ray's session folder.
    common = {"log_to_driver": False, "logging_level": logging.ERROR}
    with _keeping_signal_handlers():
        if address:
            ray.init(address=address, **common)
        else:
            # Usage statistics would be sent to the internet.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            # Ray starts its workers at niceness 15; ours are what the machine is there for.
            os.environ.setdefault("RAY_worker_niceness", "0")
            # Ray would start a Python process a core, and map a third of the memory, for tasks and
            # objects that we do not have: 8 of 12 s of its start on two busy cores.
            ray.init(
                include_dashboard=False,
                num_cpus=0,
                object_store_memory=_OBJECT_STORE_BYTES,
                **common,
            )
    return True


@contextlib.contextmanager
def _keeping_signal_handlers() -> Iterator[None]:
    """Ray's own SIGTERM handler would end the process with a stack trace instead of a drain."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _start(config: Config, model: str, report: Report, cleanup: contextlib.ExitStack) -> Cluster:
    report("starting the router")
    router = ray.remote(RouterActor).options(**_actor_options(config)).remote(config, model)
    # Ends last: its turns have drained by then, and the workers hold nothing.
    cleanup.callback(_kill, router)
    address = _await(router.address.remote(), config.cluster.start_timeout_s)

    roles = [(Role.PREFILL, config.cluster.prefill), (Role.DECODE, config.cluster.decode)]
    workers: dict[str, Any] = {}
    for role, count in roles:
        for index in range(count):
            worker_id = f"{role.value}-{index}"
            options = WorkerOptions(
                worker_id=worker_id,
                model=model,
                router_address=address,
                host=config.cluster.worker_host,
            )
            actor = ray.remote(WorkerActor).options(**_actor_options(config))
            workers[worker_id] = actor.remote(role, options, config)
            cleanup.callback(_kill, workers[worker_id])
    # Runs first: no new turns, the running ones end.
    cleanup.callback(_stop, router, config.router.drain_s + _STOP_TIMEOUT_S)
    for worker_id, worker in workers.items():
        report(f"loading the model in {worker_id}")
        _await(worker.address.remote(), config.cluster.start_timeout_s)
    report("waiting for the workers to join")
    _await_joined(address, config)
    return Cluster(address=address, config=config, router=router, workers=workers)


def _with_port(config: Config) -> Config:
    """A free port, found now: a router that is started again must be where it was before.

    On another cluster the router's node has ports of its own. Raises InvalidConfig for a taken one.
    """
    if config.cluster.ray_address:
        return config
    port = free_port(config.router.host, config.router.port)
    return replace(config, router=replace(config.router, port=port))


def _with_threads(config: Config) -> Config:
    """Every worker may use every core of this machine: prefill and decode of one turn take turns.

    On another cluster that is for its operator to say.
    """
    if config.engine.num_threads or config.cluster.ray_address:
        return config
    return replace(config, engine=replace(config.engine, num_threads=os.cpu_count() or 1))


def _share_cores(num_threads: int) -> None:
    """For the processes that Ray starts here; they inherit our environment.

    A thread that waits at a barrier must not spin: with two workers on two cores, spinning made a
    decode step take 433 ms instead of 47 while a prompt was computed. Ray would set one thread for
    OpenMP, which torch's own setting does not undo for all of its products.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("OMP_NUM_THREADS", str(num_threads))


def _actor_options(config: Config) -> dict[str, Any]:
    # Torch, gRPC and Mooncake share the cores among themselves; Ray's count is for placement.
    gpus = 1 if config.engine.device.startswith("cuda") else 0
    return {"max_restarts": -1, "num_cpus": 0, "num_gpus": gpus}


def _await(answer: Any, timeout_s: float) -> Any:
    try:
        return ray.get(answer, timeout=timeout_s)
    except RayTaskError as error:
        if isinstance(error.cause, SegueError):
            raise error.cause from None
        raise Unavailable(f"a process did not start: {error.cause!r}") from error
    except RayError as error:
        raise Unavailable(
            f"a process did not start within {timeout_s:g} s or died: {error}; "
            "its log is in Ray's session folder, /tmp/ray/session_latest/logs"
        ) from error


def _await_joined(address: str, config: Config) -> None:
    """Every worker has said hello to the router, so that the first turn finds all of them."""
    from segue.launch.ready import wait_until_ready

    wanted = config.cluster.prefill + config.cluster.decode
    wait_until_ready(address, num_workers=wanted, timeout_s=30.0, clock=time.monotonic)


def _stop(actor: Any, timeout_s: float) -> None:
    try:
        ray.get(actor.stop.remote(), timeout=timeout_s)
    except RayError as error:
        logger.warning("a process did not stop in time: %s", error)


def _kill(actor: Any) -> None:
    ray.kill(actor, no_restart=True)
