"""Room for more workers: resources of the Ray cluster, and memory of this machine."""

from __future__ import annotations

import ray

from segue.api.cluster.fleet import WorkerCounts
from segue.api.errors import InvalidConfig
from segue.api.types import Role
from segue.launch.config import Config
from segue.launch.model import check_more_workers
from segue.launch.ray.autoscaler import NodeRequest
from segue.launch.ray.demand import NodeRoom, demands_of, misfit, shortage, worker_demand
from segue.launch.ray.start import nodes_in_all


class RayRoom:
    """A `Room`."""

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
        """Nodes that are no longer wanted go when Ray finds them idle."""
        if config.cluster.ray_autoscales:
            self._nodes.ask(demands_of(config), nodes_in_all())
        else:
            self._nodes.withdraw()


def nodes_left() -> list[NodeRoom]:
    """What is not in use on each node."""
    left = ray._private.state.available_resources_per_node()
    return [
        NodeRoom.of(left.get(node["NodeID"], {}), node.get("Labels") or {})
        for node in ray.nodes()
        if node["Alive"]
    ]
