"""Room for more workers: unused resources, this machine's memory, nodes from Ray's autoscaler."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError

from segue.api.cluster.fleet import WorkerCounts
from segue.api.errors import InvalidConfig, Unavailable
from segue.api.types import Role
from segue.launch.config import Config
from segue.launch.model import check_more_workers
from segue.launch.ray.demand import (
    Demand,
    NodeRoom,
    demands_of,
    misfit,
    shortage,
    strategy_of,
    worker_demand,
)
from segue.launch.ray.start import nodes_in_all

logger = logging.getLogger(__name__)

RequestResources = Callable[..., None]


class NodeRequest:
    """The request for nodes to Ray's autoscaler. A Ray cluster has one: each replaces the last. Ray
    compares it with the nodes' total resources, used or not, and keeps the nodes that it needs for
    it even if they are idle.
    """

    def __init__(self, request: RequestResources = request_resources) -> None:
        self._request = request
        self._has_asked = False

    def ask(self, demands: Sequence[Demand], nodes: Sequence[NodeRoom] = ()) -> None:
        """Requests nodes with room for all of these workers, including those that run. `nodes`: the
        total resources of each existing node. Raises Unavailable if Ray does not answer."""
        bundles, selectors = bundles_of(demands, nodes)
        labels: dict[str, Any] = {"bundle_label_selectors": selectors} if any(selectors) else {}
        try:
            self._request(bundles=bundles, **labels)
        except (RayError, RuntimeError) as error:
            raise Unavailable(f"cannot request nodes from Ray's autoscaler: {error}") from error
        self._has_asked = True

    def withdraw(self) -> None:
        """Withdraws this process's own request, which would otherwise outlive it and keep nodes."""
        if not self._has_asked:
            return
        try:
            self._request(bundles=[])
        except (RayError, RuntimeError) as error:
            # The part of Ray that stores it has ended or does not answer.
            logger.warning(
                "cannot withdraw the request to Ray's autoscaler", extra={"error": str(error)}
            )
        self._has_asked = False


def bundles_of(
    demands: Sequence[Demand], nodes: Sequence[NodeRoom] = ()
) -> tuple[list[dict[str, float]], list[dict[str, str]]]:
    """The resources of each worker, and the labels of its node. A worker that fits on no existing
    node is requested rank by rank: the kinds of nodes that Ray may add are unknown here, and Ray
    drops the whole request if one of its bundles fits none of them.

    A worker that needs no resources fits everywhere and needs no bundle. Routers are left out,
    since Ray often cannot add their node.
    """
    asking: list[Demand] = []
    for demand in demands:
        if demand.role is None or not (demand.amounts or demand.pin.labels):
            continue
        is_whole = strategy_of(demand, nodes) == "STRICT_PACK"
        asking += [demand] if is_whole else [demand.of_rank()] * demand.num_ranks
    return [demand.amounts for demand in asking], [dict(demand.pin.labels) for demand in asking]


class RayRoom:
    """A `segue.launch.scale.controller.Room`."""

    def __init__(self, model: str, nodes: NodeRequest) -> None:
        """`model`: the folder that workers load."""
        self._model = model
        self._nodes = nodes

    def missing(self, config: Config, now: WorkerCounts, wanted: WorkerCounts) -> str:
        more = [
            worker_demand(config, role, index)
            for role in Role
            for index in range(now.of(role), wanted.of(role))
        ]
        if not more or config.cluster.ray_autoscales:
            return ""
        if missing := shortage(more, nodes_in_all(), ray.available_resources()):
            return missing
        if (unplaced := misfit(more, nodes_left(), nodes_in_all())) is not None:
            return f"{unplaced}, but no node has that left"
        try:
            check_more_workers(self._model, config, len(more))
        except InvalidConfig as error:
            return str(error)
        return ""

    def request(self, config: Config) -> None:
        """Ray removes nodes that are no longer wanted once they are idle."""
        if config.cluster.ray_autoscales:
            self._nodes.ask(demands_of(config), nodes_in_all())
        else:
            self._nodes.withdraw()


def nodes_left() -> list[NodeRoom]:
    """The unused resources of each node."""
    left = ray._private.state.available_resources_per_node()
    return [
        NodeRoom.of(left.get(node["NodeID"], {}), node.get("Labels") or {})
        for node in ray.nodes()
        if node["Alive"]
    ]
