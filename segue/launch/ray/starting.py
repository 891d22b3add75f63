"""Starts processes as Ray actors, and waits for them."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    RayActorError,
    RayTaskError,
)
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from segue.api.errors import SegueError, Unavailable
from segue.api.types import Role
from segue.launch.config import ClusterConfig, Config
from segue.launch.prepare import Report
from segue.launch.ray.actors import WorkerActor
from segue.launch.ray.demand import Demand, bundles_for, strategy_of, worker_demand
from segue.launch.ray.ranks.actor import RankActor
from segue.launch.ray.start import logs_folder, nodes_in_all
from segue.process.tracing.setup import settings_of
from segue.security.config import Security
from segue.worker.process.options import WorkerOptions

logger = logging.getLogger(__name__)

_MAX_DEATHS_AT_START = 3
# A busy machine needs some seconds to start a process. If each process dies at once, the start
# still fails, after two such intervals.
_SAME_DEATH_S = 10.0
_ASK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class StartedWorker:
    """The actors of a worker."""

    actor: Any
    """The actor that others call: the first of several ranks."""
    other_ranks: Sequence[Any] = ()
    group: PlacementGroup | None = None

    def kill(self) -> None:
        """Ends its processes, which are not restarted."""
        for actor in (self.actor, *self.other_ranks):
            ray.kill(actor, no_restart=True)
        if self.group is not None:
            remove_placement_group(self.group)


def actor_of(kind: type[Any], demand: Demand) -> Any:
    """A class that Ray starts, and restarts without limit, on any node that fits."""
    return _restarted(kind, demand.options())


def _restarted(kind: type[Any], options: dict[str, Any]) -> Any:
    if traces := settings_of(os.environ):
        # Processes of a Ray that was started elsewhere do not inherit our environment.
        options["runtime_env"] = {"env_vars": traces}
    return ray.remote(kind).options(max_restarts=-1, **options)


def start_worker(
    role: Role, index: int, config: Config, model: str, routers: Sequence[str], security: Security
) -> StartedWorker:
    """Starts the actors of a worker."""
    demand = worker_demand(config, role, index)
    options = worker_options(config.cluster, role, index, model, routers)
    options = replace(options, security=security)
    if demand.num_ranks > 1:
        return _start_ranks(demand, options, config.of_worker(role, index))
    actor = actor_of(WorkerActor, demand)
    return StartedWorker(actor.remote(role, options, config.of_worker(role, index)))


def _start_ranks(demand: Demand, options: WorkerOptions, config: Config) -> StartedWorker:
    strategy = strategy_of(demand, nodes_in_all())
    # Does not wait for room. Ends with the launcher at the latest.
    group = placement_group(**bundles_for(demand, strategy))
    logger.info(
        "placement group created",
        extra={"worker": demand.process, "ranks": demand.num_ranks, "strategy": strategy},
    )
    rank, others, names = demand.of_rank(), [], []
    for index in range(1, demand.num_ranks):
        log = f"{demand.process}-rank-{index}"
        # The leader gets names: handles would be lost with the node that keeps them, and the leader
        # could not be restarted. A name becomes free only when its actor has ended.
        names.append(f"{log}-{secrets.token_hex(4)}")
        # The second thread is for a new leader while the earlier one still seems to be alive.
        given = {**options_in(group, index, rank), "max_concurrency": 2, "name": names[-1]}
        others.append(_restarted(RankActor, given).remote(log, options))
    leader = _restarted(WorkerActor, options_in(group, 0, rank))
    return StartedWorker(leader.remote(demand.role, options, config, names), others, group)


def options_in(group: PlacementGroup, rank: int, demand: Demand) -> dict[str, Any]:
    """The options of a rank's actor. `demand`: of one rank. Its labels are the bundle's."""
    options = demand.options()
    options.pop("label_selector", None)
    return {**options, "scheduling_strategy": PlacementGroupSchedulingStrategy(group, rank)}


def worker_options(
    cluster: ClusterConfig, role: Role, index: int, model: str, routers: Sequence[str]
) -> WorkerOptions:
    is_prefill = role is Role.PREFILL
    first_port = cluster.prefill_port if is_prefill else cluster.decode_port
    first_metrics = cluster.prefill_metrics_port if is_prefill else cluster.decode_metrics_port
    step = 0 if cluster.one_worker_per_node else index
    return WorkerOptions(
        worker_id=f"{role.value}-{index}",
        model=model,
        router_address=",".join(routers),
        host=cluster.worker_host,
        announce=cluster.worker_announce,
        port=first_port + step if first_port else 0,
        metrics_port=first_metrics + step if first_metrics else 0,
    )


class Deaths:
    """Counts the deaths of a process that Ray restarts. Until it runs again, every call to it fails
    because of the same death."""

    def __init__(self) -> None:
        self.number = 0
        self._last_at = float("-inf")

    def reported(self, now: float, *, is_restarting: bool) -> bool:
        """Records a failed call. Returns whether it means another death."""
        if is_restarting and now - self._last_at < _SAME_DEATH_S:
            return False
        self.number += 1
        self._last_at = now
        return True


def await_started(actor: Any, process: str, timeout_s: float, report: Report) -> str:
    """The address of a process once it serves. If it dies first, waits for a few restarts by Ray.
    Raises the error of its start, or Unavailable.
    """
    deadline_at = time.monotonic() + timeout_s
    deaths = Deaths()
    while deaths.number < _MAX_DEATHS_AT_START:
        try:
            return _address_of(actor, process, deadline_at - time.monotonic())
        except RayActorError as error:
            is_restarting = isinstance(error, ActorUnavailableError)
            if not deaths.reported(time.monotonic(), is_restarting=is_restarting):
                continue
            logger.info("died during its start", extra={"process": process, "error": str(error)})
            report(f"{process} died during its start; restarting it")
    raise Unavailable(
        f"{process} died {_MAX_DEATHS_AT_START} times during its start; see "
        f"segue-{process}.log and worker-*.err in {logs_folder()}"
    )


def _address_of(actor: Any, process: str, timeout_s: float) -> str:
    """Raises RayActorError if the process died meanwhile."""
    try:
        address: str = ray.get(actor.address.remote(), timeout=max(timeout_s, 0.0))
    except ActorUnavailableError:
        # Ray is restarting it: the next call waits for that.
        time.sleep(_ASK_AGAIN_S)
        raise
    except RayTaskError as error:
        raise start_error(process, error) from error
    except GetTimeoutError as error:
        raise Unavailable(
            f"{process} did not start in [cluster] start_timeout_s; see segue-{process}.log and "
            f"worker-*.err in {logs_folder()}"
        ) from error
    return address


def start_error(process: str, error: RayTaskError) -> SegueError:
    """Why a process did not start, as its shell reports it."""
    if isinstance(error.cause, SegueError):
        return error.cause
    return Unavailable(
        f"{process} did not start: {error.cause!r}; see segue-{process}.log in {logs_folder()}"
    )
