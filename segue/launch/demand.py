"""What each process asks of Ray, and whether a Ray cluster can give it: pure, without Ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segue.launch.config import ANYWHERE, Config, Pin
from segue.types import Role

# Ray counts in ten-thousandths; sums of fractions must not fail for less.
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Of one process. The router has no role."""

    role: Role | None = None
    index: int = 0
    cpus: float = 0.0
    gpus: float = 0.0
    pin: Pin = ANYWHERE

    @property
    def process(self) -> str:
        """Its name, in logs and among the workers."""
        return f"{self.role.value}-{self.index}" if self.role else "router"

    def options(self) -> dict[str, Any]:
        """As Ray's actors take them."""
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.pin.resources:
            options["resources"] = dict(self.pin.resources)
        if self.pin.labels:
            options["label_selector"] = dict(self.pin.labels)
        return options

    @property
    def amounts(self) -> dict[str, float]:
        named = {"CPU": self.cpus, "GPU": self.gpus, **self.pin.resources}
        return {name: amount for name, amount in named.items() if amount}

    def __str__(self) -> str:
        wanted = [f"{amount:g} {name}" for name, amount in self.amounts.items()]
        labels = [f"label {name}={value}" for name, value in self.pin.labels.items()]
        return f"{self.process} asks for {', '.join(wanted) or 'a node'}" + (
            f" on a node with {', '.join(labels)}" if labels else ""
        )


def demands_of(config: Config) -> list[Demand]:
    """Of the router and of each worker. Only workers on a GPU ask for one, or a part of one."""
    cluster = config.cluster
    on_gpu = config.engine.device.startswith("cuda")

    def worker(role: Role, index: int, gpus: float, pin: Pin) -> Demand:
        return Demand(
            role=role,
            index=index,
            cpus=cluster.cpus_per_worker,
            gpus=gpus if on_gpu else 0.0,
            pin=pin,
        )

    return [
        Demand(pin=Pin.parse(cluster.router_on)),
        *(
            worker(Role.PREFILL, index, cluster.gpus_per_prefill, Pin.parse(cluster.prefill_on))
            for index in range(cluster.prefill)
        ),
        *(
            worker(Role.DECODE, index, cluster.gpus_per_decode, Pin.parse(cluster.decode_on))
            for index in range(cluster.decode)
        ),
    ]


@dataclass(slots=True, kw_only=True)
class NodeRoom:
    """What is left of a node while demands are placed on it one by one."""

    labels: Mapping[str, str]
    amounts: dict[str, float]
    gpus: list[float] = field(default_factory=list)
    """Of each GPU: a fraction must fit on one of them."""

    @classmethod
    def of(cls, resources: Mapping[str, float], labels: Mapping[str, str]) -> NodeRoom:
        num_gpus = int(resources.get("GPU", 0.0))
        return cls(labels=labels, amounts=dict(resources), gpus=[1.0] * num_gpus)

    def take(self, demand: Demand) -> bool:
        """Whether the demand fits; then it is counted."""
        if any(self.labels.get(name) != value for name, value in demand.pin.labels.items()):
            return False
        others = {name: amount for name, amount in demand.amounts.items() if name != "GPU"}
        if any(self.amounts.get(name, 0.0) + _TOLERANCE < n for name, n in others.items()):
            return False
        if demand.gpus:
            # Best fit, as Ray does it: parts of a GPU go where a part is taken already.
            fitting = [free for free in self.gpus if free + _TOLERANCE >= demand.gpus]
            if not fitting:
                return False
            self.gpus[self.gpus.index(min(fitting))] -= demand.gpus
        for name, amount in others.items():
            self.amounts[name] -= amount
        return True


def misfit(demands: Iterable[Demand], nodes: Sequence[NodeRoom]) -> Demand | None:
    """A process that finds no room on the nodes, the largest demands placed first. Changes them."""

    def size(demand: Demand) -> tuple[float, ...]:
        # The choosy first: what is pinned has fewer places to go to.
        return (len(demand.pin.labels), sum(demand.pin.resources.values()), demand.gpus)

    for demand in sorted(demands, key=size, reverse=True):
        if not any(node.take(demand) for node in nodes):
            return demand
    return None


def totals(demands: Iterable[Demand]) -> dict[str, float]:
    """What all of them ask for together, by the name of the resource."""
    sums: dict[str, float] = {}
    for demand in demands:
        for name, amount in demand.amounts.items():
            sums[name] = sums.get(name, 0.0) + amount
    return sums


def shortage(
    demands: Sequence[Demand], nodes: Sequence[NodeRoom], available: Mapping[str, float]
) -> str:
    """What is missing for the demands, with both numbers; empty when they can be placed.

    `available` is what nobody uses now, of the whole cluster.
    """
    wanted = totals(demands)
    has = {name: sum(node.amounts.get(name, 0.0) for node in nodes) for name in wanted}
    where = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}"
    if short := [name for name in wanted if has[name] + _TOLERANCE < wanted[name]]:
        return (
            f"it needs {_listed(wanted, short)}, and the Ray cluster has {_listed(has, short)} on "
            f"{where}"
        )
    if busy := [n for n in wanted if available.get(n, 0.0) + _TOLERANCE < wanted[n]]:
        free = {name: available.get(name, 0.0) for name in busy}
        return (
            f"it needs {_listed(wanted, busy)}, and of the Ray cluster's {_listed(has, busy)} only "
            f"{_listed(free, busy)} is not in use"
        )
    if (unplaced := misfit(demands, nodes)) is not None:
        return (
            f"{unplaced}, and no node has that left beside the others; the Ray cluster has {where}"
        )
    return ""


def _listed(amounts: Mapping[str, float], names: Iterable[str]) -> str:
    return ", ".join(f"{amounts[name]:g} {name}" for name in names)
