"""Workers, routers and machines for the controller, which do what a test says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from segue.api.cluster.fleet import LauncherReport, Order, Ordered, OrderResult, WorkerCounts
from segue.api.cluster.status import (
    ClusterStatus,
    RouterStatus,
    WorkerHealth,
    WorkerLoad,
    WorkerStatus,
)
from segue.api.errors import SegueError, Unavailable
from segue.api.types import Epoch, Role, WorkerId
from segue.launch.config import Config
from segue.launch.scale.plan import name_of


@dataclass
class FakeWorker:
    name: str
    health: WorkerHealth = WorkerHealth.READY
    is_up: bool = True
    failure: SegueError | None = None
    is_retiring: bool = False
    left: str = ""
    has_ended: bool = False
    sessions: int = 0

    def serves(self) -> bool:
        if self.failure is not None:
            raise self.failure
        return self.is_up

    def retire(self) -> None:
        self.is_retiring = True

    def has_left(self) -> str:
        return self.left

    def end(self) -> None:
        self.has_ended = True

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            worker_id=WorkerId(self.name),
            role=Role(self.name.split("-")[0]),
            epoch=Epoch(1),
            address=f"{self.name}:1",
            health=WorkerHealth.DRAINING if self.is_retiring else self.health,
            load=WorkerLoad(leased_sessions=self.sessions),
        )


@dataclass
class Workers:
    """Those that a fleet has started, by name. New ones come up when a test says so."""

    all: dict[str, FakeWorker] = field(default_factory=dict)

    def start(self, role: Role, index: int) -> FakeWorker:
        name = name_of(role, index)
        assert name not in self.here(), "its name is taken"
        worker = self.all[name] = FakeWorker(name, is_up=False)
        return worker

    def here(self) -> dict[str, FakeWorker]:
        return {name: worker for name, worker in self.all.items() if not worker.has_ended}

    def come_up(self) -> None:
        for worker in self.here().values():
            worker.is_up = True

    def leave(self) -> None:
        for worker in self.here().values():
            if worker.is_retiring:
                worker.left = "0 turns ended"

    def view(self) -> ClusterStatus:
        shown = [w.status() for w in self.here().values() if w.is_up and not w.left]
        router = RouterStatus(address="r:1")
        return ClusterStatus(
            ready=True, model="demo", model_id="0", workers=tuple(shown), router=router
        )


@dataclass
class FakeRouter:
    workers: Workers
    waiting: list[Ordered] = field(default_factory=list)
    sent: list[LauncherReport] = field(default_factory=list)
    is_away: bool = False

    def give(self, order: Order) -> str:
        ordered = Ordered(order=order)
        self.waiting.append(ordered)
        return ordered.name

    def orders(self) -> Sequence[Ordered]:
        orders, self.waiting = self.waiting, []
        return orders

    def view(self) -> ClusterStatus | None:
        return None if self.is_away else self.workers.view()

    def send(self, report: LauncherReport) -> None:
        self.sent.append(report)

    def answer(self, name: str) -> OrderResult:
        return next(one for report in self.sent for one in report.answers if one.name == name)


@dataclass
class FakeRoom:
    largest: int = 100
    is_away: bool = False
    requested: list[WorkerCounts] = field(default_factory=list)

    def missing(self, config: Config, now: WorkerCounts, wanted: WorkerCounts) -> str:
        total = wanted.prefill + wanted.decode
        return "" if total <= self.largest else f"{total} GPUs, but 1 is free"

    def request(self, config: Config) -> None:
        if self.is_away:
            raise Unavailable("Ray's autoscaler cannot be asked for nodes")
        cluster = config.cluster
        self.requested.append(WorkerCounts(prefill=cluster.prefill, decode=cluster.decode))
