"""The workers of a cluster while their number changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from segue.api.cluster.status import ClusterStatus, WorkerHealth, WorkerStatus
from segue.api.errors import SegueError
from segue.api.types import Role
from segue.launch.scale.plan import Action, Cancel, Retire, Start, WorkerStage, WorkerView, name_of
from segue.process.telemetry import Clock

Report = Callable[[str], None]


class WorkerProcess(Protocol):
    """One worker's process. No method waits."""

    def serves(self) -> bool:
        """Whether it has started. Raises the SegueError of a failed start, which is repeated."""

    def retire(self) -> None:
        """Drains it, with its sessions moved, for good."""

    def has_left(self) -> str:
        """The outcome of its drain, in words, once it has left or died; empty before."""

    def end(self) -> None:
        """Ends the process, which is not restarted."""


StartWorker = Callable[[Role, int], WorkerProcess]


@dataclass(slots=True)
class _Worker:
    role: Role
    index: int
    process: WorkerProcess
    stage: WorkerStage
    since: float
    failure: str = ""
    """The error of its last failed start."""


class Fleet:
    """The launcher's main thread owns it."""

    def __init__(
        self,
        serving: Mapping[tuple[Role, int], WorkerProcess],
        start: StartWorker,
        report: Report,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._start = start
        self._report = report
        self._workers = {
            name_of(*key): _Worker(*key, process, WorkerStage.SERVING, clock())
            for key, process in serving.items()
        }

    def look(self, view: ClusterStatus | None) -> list[WorkerView]:
        """The current workers. `view`: a router's view of them; None if no router answers."""
        for name, worker in list(self._workers.items()):
            if worker.stage is WorkerStage.STARTING:
                self._look_at_start(name, worker)
            elif worker.stage is WorkerStage.LEAVING and (words := worker.process.has_left()):
                worker.process.end()
                del self._workers[name]
                self._report(f"{name} left: {words}")
        shown = shown_in(view)
        return [self._seen(worker, shown.get(name)) for name, worker in self._workers.items()]

    def act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            name = name_of(action.role, action.index)
            match action:
                case Start(role, index):
                    process = self._start(role, index)
                    self._workers[name] = _Worker(
                        role, index, process, WorkerStage.STARTING, self._clock()
                    )
                    self._report(f"{name} starts")
                case Cancel():
                    self._workers.pop(name).process.end()
                    self._report(f"{name} is no longer needed: its start is cancelled")
                case Retire():
                    worker = self._workers[name]
                    worker.process.retire()
                    worker.stage, worker.since = WorkerStage.LEAVING, self._clock()
                    self._report(f"{name} leaves: its turns end and its sessions move")

    def changes(self, view: ClusterStatus | None) -> Iterator[str]:
        """The differences from the wanted state, in words."""
        shown = shown_in(view)
        for name, worker in self._workers.items():
            since_s = self._clock() - worker.since
            seen = shown.get(name)
            if worker.stage is WorkerStage.STARTING:
                why = f" and did not come up: {worker.failure}" if worker.failure else ""
                yield f"{name} has been starting for {since_s:.0f} s{why}"
            elif worker.stage is WorkerStage.LEAVING:
                load = seen.load if seen else None
                left = f"; {load.running_turns} turns and " if load else ""
                left += f"{load.leased_sessions} sessions are there" if load else ""
                yield f"{name} has been leaving for {since_s:.0f} s{left}"
            elif view is not None and (seen is None or seen.health is not WorkerHealth.READY):
                yield f"{name} is {seen.health if seen else 'not connected to a router'}"

    def _look_at_start(self, name: str, worker: _Worker) -> None:
        try:
            if not worker.process.serves():
                return
        except SegueError as error:
            if str(error) != worker.failure:
                worker.failure = str(error)
                self._report(f"{name} does not start, and tries again: {error}")
            return
        worker.stage = WorkerStage.SERVING
        self._report(f"{name} serves after {self._clock() - worker.since:.1f} s")

    def _seen(self, worker: _Worker, shown: WorkerStatus | None) -> WorkerView:
        load = shown.load if shown else None
        return WorkerView(
            role=worker.role,
            index=worker.index,
            stage=worker.stage,
            is_ready=shown is not None and shown.health is WorkerHealth.READY,
            turns=load.running_turns + load.waiting_turns if load else 0,
            sessions=load.leased_sessions if load else 0,
        )


def shown_in(view: ClusterStatus | None) -> dict[str, WorkerStatus]:
    return {str(worker.worker_id): worker for worker in view.workers} if view else {}
