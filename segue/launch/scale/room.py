"""Room for more workers: resources of the Ray cluster, and memory of this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from segue.api.cluster.fleet import WorkerCounts
from segue.api.errors import InvalidConfig
from segue.api.types import Role
from segue.launch.config import Config
from segue.launch.model import check_more_workers
from segue.launch.ray.demand import Demand, NodeRoom, misfit, shortage, worker_demand
from segue.launch.ray.start import nodes_in_all

RequestResources = Callable[..., None]


class RayRoom:
    """A `Room`."""

    def __init__(self, model: str, request: RequestResources = request_resources) -> None:
        """`model`: the folder that workers load."""
        self._model = model
        self._request = request

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
        if (unplaced := misfit(more, nodes_left())) is not None:
            return f"{unplaced}, but no node has that left"
        try:
            check_more_workers(self._model, config, len(more))
        except InvalidConfig as error:
            return str(error)
        return ""

    def request(self, config: Config, wanted: WorkerCounts) -> None:
        """Of all workers: Ray compares with what its nodes have, not with what is unused. The
        request stays until the next one, so nodes that are still wanted are not taken away.
        """
        if not config.cluster.ray_autoscales:
            return
        demands = [
            worker_demand(config, role, index) for role in Role for index in range(wanted.of(role))
        ]
        bundles, selectors = bundles_of(demands)
        labels: dict[str, Any] = {"bundle_label_selectors": selectors} if any(selectors) else {}
        self._request(bundles=bundles, **labels)


def bundles_of(
    demands: list[Demand],
) -> tuple[list[dict[str, float]], list[dict[str, str]]]:
    """The resources of each process, and the labels of its node. A process that asks for nothing
    fits everywhere, and needs no bundle."""
    asking = [demand for demand in demands if demand.amounts or demand.pin.labels]
    return [demand.amounts for demand in asking], [dict(demand.pin.labels) for demand in asking]


def nodes_left() -> list[NodeRoom]:
    """What is not in use on each node."""
    left = ray._private.state.available_resources_per_node()
    return [
        NodeRoom.of(left.get(node["NodeID"], {}), node.get("Labels") or {})
        for node in ray.nodes()
        if node["Alive"]
    ]
