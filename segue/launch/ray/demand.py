"""The resources that each process needs, and whether a Ray cluster has them: pure, without Ray."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from segue.api.types import Role
from segue.launch.config import ANYWHERE, Config, Pin

# Ray counts in units of 1/10,000; sums of fractions must not fail over smaller differences.
_TOLERANCE = 1e-4
_UNITS = 10_000
# One byte: Ray refuses an empty bundle, and every node has some memory.
_HARDLY_ANYTHING = {"memory": 1.0}

Strategy = Literal["STRICT_PACK", "PACK"]
"""Of a placement group: all ranks on one node, or on as few as have room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The demand of one process, or of one worker with all its ranks. A router has no role."""

    role: Role | None = None
    index: int = 0
    cpus: float = 0.0
    gpus: float = 0.0
    pin: Pin = ANYWHERE
    num_ranks: int = 1

    @property
    def process(self) -> str:
        """The process's name in logs and among the workers. The first router has no number, since
        there is rarely another."""
        if self.role is not None:
            return f"{self.role.value}-{self.index}"
        return f"router-{self.index}" if self.index else "router"

    def options(self) -> dict[str, Any]:
        """The options of a Ray actor."""
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.pin.resources:
            options["resources"] = dict(self.pin.resources)
        if self.pin.labels:
            options["label_selector"] = dict(self.pin.labels)
        return options

    def of_rank(self) -> Demand:
        """The demand of each of its ranks: an equal part, rounded down to Ray's units, so that the
        parts never exceed the whole."""
        parts = {
            name: max(math.floor(amount * _UNITS / self.num_ranks + _TOLERANCE), 1) / _UNITS
            for name, amount in self.pin.resources.items()
        }
        return replace(
            self,
            cpus=self.cpus / self.num_ranks,
            gpus=self.gpus / self.num_ranks,
            pin=Pin(labels=self.pin.labels, resources=parts),
            num_ranks=1,
        )

    @property
    def amounts(self) -> dict[str, float]:
        named = {"CPU": self.cpus, "GPU": self.gpus, **self.pin.resources}
        return {name: amount for name, amount in named.items() if amount}

    def __str__(self) -> str:
        wanted = [f"{amount:g} {name}" for name, amount in self.amounts.items()]
        labels = [f"label {name}={value}" for name, value in self.pin.labels.items()]
        wanted += [f"{self.num_ranks} ranks"] if self.num_ranks > 1 else []
        return f"{self.process} asks for {', '.join(wanted) or 'a node'}" + (
            f" on a node with {', '.join(labels)}" if labels else ""
        )


def demands_of(config: Config) -> list[Demand]:
    """The demands of each router and each worker. Only workers on GPUs request a GPU, or a fraction
    of one.
    """
    cluster = config.cluster
    return [
        *(Demand(index=i, pin=Pin.parse(cluster.router_on)) for i in range(cluster.routers)),
        *(worker_demand(config, Role.PREFILL, index) for index in range(cluster.prefill)),
        *(worker_demand(config, Role.DECODE, index) for index in range(cluster.decode)),
    ]


def worker_demand(config: Config, role: Role, index: int) -> Demand:
    cluster, is_prefill = config.cluster, role is Role.PREFILL
    gpus = cluster.gpus_per_prefill if is_prefill else cluster.gpus_per_decode
    num_ranks = config.engines[role].tensor_parallel
    return Demand(
        role=role,
        index=index,
        cpus=cluster.cpus_per_worker * num_ranks,
        gpus=gpus * num_ranks if config.engine.device.startswith("cuda") else 0.0,
        pin=Pin.parse(cluster.prefill_on if is_prefill else cluster.decode_on),
        num_ranks=num_ranks,
    )


@dataclass(slots=True, kw_only=True)
class NodeRoom:
    """A node's remaining resources while demands are placed on it one by one."""

    labels: Mapping[str, str]
    amounts: dict[str, float]
    gpus: list[float] = field(default_factory=list)
    """The free part of each GPU: a fraction must fit on a single GPU."""

    @classmethod
    def of(cls, resources: Mapping[str, float], labels: Mapping[str, str]) -> NodeRoom:
        """`resources`: all of the node's, or the unused ones. If GPUs are partly in use, one of
        them is assumed to have the whole rest."""
        whole, part = divmod(resources.get("GPU", 0.0), 1.0)
        gpus = [1.0] * int(whole) + ([part] if part > _TOLERANCE else [])
        return cls(labels=labels, amounts=dict(resources), gpus=gpus)

    def take(self, demand: Demand) -> bool:
        """Places the demand if it fits; returns whether it did."""
        if any(self.labels.get(name) != value for name, value in demand.pin.labels.items()):
            return False
        others = {name: amount for name, amount in demand.amounts.items() if name != "GPU"}
        if any(self.amounts.get(name, 0.0) + _TOLERANCE < n for name, n in others.items()):
            return False
        if demand.gpus > 1:
            whole = [index for index, free in enumerate(self.gpus) if free + _TOLERANCE >= 1.0]
            if len(whole) + _TOLERANCE < demand.gpus:
                return False
            for index in whole[: int(demand.gpus)]:
                self.gpus[index] = 0.0
        elif demand.gpus:
            # Best fit, as in Ray: fractions go to GPUs that are already shared.
            fitting = [free for free in self.gpus if free + _TOLERANCE >= demand.gpus]
            if not fitting:
                return False
            self.gpus[self.gpus.index(min(fitting))] -= demand.gpus
        for name, amount in others.items():
            self.amounts[name] -= amount
        return True

    def copy(self) -> NodeRoom:
        return replace(self, amounts=dict(self.amounts), gpus=list(self.gpus))


def bundles_for(demand: Demand, strategy: Strategy) -> dict[str, Any]:
    """The arguments of a placement group with one bundle for each rank, all alike."""
    rank, count = demand.of_rank(), demand.num_ranks
    labels = [dict(rank.pin.labels)] * count if rank.pin.labels else None
    return {
        "bundles": [rank.amounts or _HARDLY_ANYTHING] * count,
        "strategy": strategy,
        "bundle_label_selector": labels,
    }


def strategy_of(demand: Demand, nodes: Iterable[NodeRoom]) -> Strategy:
    """A worker stays on one node, where ranks exchange their sums fastest, even if it has to wait
    for that, unless no node could hold it. `nodes`: the total resources of each."""
    fits = any(node.copy().take(demand) for node in nodes)
    return "STRICT_PACK" if fits or demand.num_ranks == 1 else "PACK"


def misfit(
    demands: Iterable[Demand],
    nodes: Sequence[NodeRoom],
    whole: Sequence[NodeRoom] | None = None,
) -> Demand | None:
    """A process that does not fit on the nodes, if any; places the largest demands first. Modifies
    `nodes`. `whole`: the total resources of each node; by default `nodes`.
    """
    whole = [node.copy() for node in (nodes if whole is None else whole)]

    def size(demand: Demand) -> tuple[float, ...]:
        # The pickiest first: pinned processes have fewer possible nodes.
        return (len(demand.pin.labels), sum(demand.pin.resources.values()), demand.gpus)

    for demand in sorted(demands, key=size, reverse=True):
        if any(node.take(demand) for node in nodes):
            continue
        if strategy_of(demand, whole) == "STRICT_PACK" or not _take_spread(demand, nodes):
            return demand
    return None


def _take_spread(demand: Demand, nodes: Sequence[NodeRoom]) -> bool:
    """Places the ranks of a worker on several nodes; returns whether all have room."""
    rank, left = demand.of_rank(), demand.num_ranks
    for node in nodes:
        while left and node.take(rank):
            left -= 1
    return not left


def totals(demands: Iterable[Demand]) -> dict[str, float]:
    """The sum of the demands by resource name."""
    sums: dict[str, float] = {}
    for demand in demands:
        for name, amount in demand.amounts.items():
            sums[name] = sums.get(name, 0.0) + amount
    return sums


def shortage(
    demands: Sequence[Demand], nodes: Sequence[NodeRoom], available: Mapping[str, float]
) -> str:
    """The missing resources, with both numbers; empty if the demands can be placed.

    `available` is what is currently unused in the whole cluster.
    """
    wanted = totals(demands)
    has = {name: sum(node.amounts.get(name, 0.0) for node in nodes) for name in wanted}
    where = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}"
    if short := [name for name in wanted if has[name] + _TOLERANCE < wanted[name]]:
        return (
            f"it needs {_listed(wanted, short)}, but the Ray cluster has {_listed(has, short)} on "
            f"{where}"
        )
    if busy := [n for n in wanted if available.get(n, 0.0) + _TOLERANCE < wanted[n]]:
        free = {name: available.get(name, 0.0) for name in busy}
        return (
            f"it needs {_listed(wanted, busy)}, but of the Ray cluster's {_listed(has, busy)} only "
            f"{_listed(free, busy)} is not in use"
        )
    whole = [node.copy() for node in nodes]
    if (unplaced := misfit(demands, nodes)) is not None:
        left = (
            "no node has" if strategy_of(unplaced, whole) == "STRICT_PACK" else "the nodes have not"
        )
        return f"{unplaced}, but {left} that left after the others; the Ray cluster has {where}"
    return ""


def _listed(amounts: Mapping[str, float], names: Iterable[str]) -> str:
    return ", ".join(f"{amounts[name]:g} {name}" for name in names)
