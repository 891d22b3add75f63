"""The workers to start and to retire: a pure function of wanted numbers and existing workers.

Nothing is remembered between two looks, so workers that die, and numbers that are replaced while
workers start or leave, need no code of their own.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from segue.api.cluster.fleet import WorkerCounts
from segue.api.types import Role


class WorkerStage(enum.Enum):
    STARTING = enum.auto()
    """Its process starts, loads the model or warms up."""
    SERVING = enum.auto()
    LEAVING = enum.auto()
    """It drains, and is not restarted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker at one look."""

    role: Role
    index: int
    stage: WorkerStage
    is_ready: bool = False
    """A router considers it ready."""
    turns: int = 0
    sessions: int = 0
    """Sessions that hold a lease on it."""


def name_of(role: Role, index: int) -> str:
    return f"{role.value}-{index}"


@dataclass(frozen=True, slots=True)
class Start:
    role: Role
    index: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ends a worker that does not serve yet."""

    role: Role
    index: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Drains a worker, with its sessions moved; then it leaves for good."""

    role: Role
    index: int


Action = Start | Cancel | Retire


def next_actions(wanted: WorkerCounts, workers: Sequence[WorkerView]) -> list[Action]:
    """The actions to take now. Workers of a role leave one at a time, and only while another of the
    role is ready, since their turns and sessions need a place.
    """
    return [
        action
        for role in Role
        for action in _of_role(wanted.of(role), role, [w for w in workers if w.role is role])
    ]


def _of_role(wanted: int, role: Role, workers: Sequence[WorkerView]) -> Iterator[Action]:
    staying = [worker for worker in workers if worker.stage is not WorkerStage.LEAVING]
    missing = wanted - len(staying)
    if missing >= 0:
        # The name of a leaving worker is not free yet.
        taken = {worker.index for worker in workers}
        free = (index for index in itertools.count() if index not in taken)
        yield from (Start(role, index) for index in itertools.islice(free, missing))
        return
    starting = sorted(worker.index for worker in staying if worker.stage is WorkerStage.STARTING)
    yield from (Cancel(role, index) for index in starting[missing:])
    serving = [worker for worker in staying if worker.stage is WorkerStage.SERVING]
    if len(serving) <= wanted or len(serving) != len(staying) or len(workers) > len(staying):
        return
    leaving = min(serving, key=_load)
    if any(worker.is_ready for worker in serving if worker is not leaving):
        yield Retire(role, leaving.index)


def _load(worker: WorkerView) -> tuple[bool, int, int, int]:
    """A worker that is not ready leaves first, then the one with the least to move, then the one
    with the highest index."""
    return worker.is_ready, worker.turns, worker.sessions, -worker.index
