"""How close the cluster is to its limits, for operators and for the launcher, which may change the
number of workers. A pure function of the workers' load and speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from router.placement.cluster import ClusterModel
from router.placement.node import WorkerNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """Fields of the same names in `RouterStatus` explain these."""

    prefill_queue_s: float = 0.0
    prefill_busy: float = 0.0
    outstanding_handoffs: int = 0
    turn_tokens_per_s: float = 0.0
    turn_tokens_per_s_with_fewer: float = 0.0


def pressure_of(cluster: ClusterModel) -> Pressure:
    nodes = list(cluster.nodes.values())
    prefills = [node for node in nodes if node.is_prefill and node.is_ready]
    decodes = [node for node in nodes if not node.is_prefill and node.is_ready]
    return Pressure(
        prefill_queue_s=min(
            (n.queue_s(cluster.full_speed_of(n.worker_id)) for n in prefills), default=0.0
        ),
        prefill_busy=sum(1.0 for node in prefills if node.own_prefills or node.running_turns),
        outstanding_handoffs=sum(node.own_prefills for node in nodes),
        turn_tokens_per_s=min(
            (_rate(cluster, n, n.running_turns) for n in decodes if n.running_turns), default=0.0
        ),
        turn_tokens_per_s_with_fewer=_with_fewer(cluster, decodes),
    )


def _with_fewer(cluster: ClusterModel, decodes: list[WorkerNode]) -> float:
    running = sum(node.running_turns for node in decodes)
    if not running or len(decodes) < 2:
        return 0.0
    each = math.ceil(running / (len(decodes) - 1))
    return min(_rate(cluster, node, each) for node in decodes)


def _rate(cluster: ClusterModel, node: WorkerNode, turns: int) -> float:
    return 1.0 / max(cluster.full_speed_of(node.worker_id).step.at(turns), 1e-9)
