"""Which workers start and leave, as a table; any sequence of wishes and deaths ends well."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.api.cluster.fleet import WorkerCounts
from segue.api.types import Role
from segue.launch.scale.plan import (
    Action,
    Cancel,
    Retire,
    Start,
    WorkerStage,
    WorkerView,
    next_actions,
)

P, D = Role.PREFILL, Role.DECODE


def counts(prefill: int, decode: int) -> WorkerCounts:
    return WorkerCounts(prefill=prefill, decode=decode)


def worker(
    role: Role,
    index: int,
    stage: WorkerStage = WorkerStage.SERVING,
    *,
    turns: int = 0,
    sessions: int = 0,
) -> WorkerView:
    is_ready = stage is WorkerStage.SERVING
    return WorkerView(
        role=role, index=index, stage=stage, is_ready=is_ready, turns=turns, sessions=sessions
    )


def starting(role: Role, index: int) -> WorkerView:
    return worker(role, index, WorkerStage.STARTING)


def leaving(role: Role, index: int) -> WorkerView:
    return worker(role, index, WorkerStage.LEAVING)


def lost(role: Role, index: int) -> WorkerView:
    return replace(worker(role, index), is_ready=False)


TABLE: list[tuple[str, WorkerCounts, list[WorkerView], list[Action]]] = [
    ("all are there", counts(1, 1), [worker(P, 0), worker(D, 0)], []),
    ("all that are missing start at once", counts(2, 3), [worker(P, 0), worker(D, 0)],
     [Start(P, 1), Start(D, 1), Start(D, 2)]),
    ("one that starts counts", counts(1, 2), [worker(P, 0), worker(D, 0), starting(D, 1)], []),
    ("the lowest free name", counts(1, 3), [worker(P, 0), worker(D, 0), worker(D, 2)],
     [Start(D, 1)]),
    ("not the name of one that leaves", counts(1, 2), [worker(P, 0), worker(D, 0), leaving(D, 1)],
     [Start(D, 2)]),
    ("the one with the fewest turns leaves", counts(1, 1),
     [worker(P, 0), worker(D, 0, turns=2), worker(D, 1, turns=3)], [Retire(D, 0)]),
    ("then the one with the fewest sessions", counts(1, 1),
     [worker(P, 0), worker(D, 0, sessions=2), worker(D, 1, sessions=5)], [Retire(D, 0)]),
    ("of equal ones the last", counts(1, 1), [worker(P, 0), worker(D, 0), worker(D, 1)],
     [Retire(D, 1)]),
    ("one of each role at a time", counts(1, 1),
     [worker(P, 0), worker(P, 1), worker(P, 2), worker(D, 0), worker(D, 1)],
     [Retire(P, 2), Retire(D, 1)]),
    ("no other while one leaves", counts(1, 1),
     [worker(P, 0), worker(D, 0), worker(D, 1), leaving(D, 2)], []),
    ("one that starts is cancelled first", counts(1, 1),
     [worker(P, 0), worker(D, 0), starting(D, 1)], [Cancel(D, 1)]),
    ("the last one of those that start", counts(1, 2),
     [worker(P, 0), worker(D, 0), starting(D, 1), starting(D, 2)], [Cancel(D, 2)]),
    ("those that start, then one that serves", counts(1, 1),
     [worker(P, 0), worker(D, 0), worker(D, 1), starting(D, 2)], [Cancel(D, 2)]),
    ("a lost one leaves first", counts(1, 1), [worker(P, 0), worker(D, 0), lost(D, 1)],
     [Retire(D, 1)]),
    ("none leaves while no other is ready", counts(1, 1), [worker(P, 0), lost(D, 0), lost(D, 1)],
     []),
    ("a wish that is replaced", counts(1, 2), [worker(P, 0), worker(D, 0), leaving(D, 1)],
     [Start(D, 2)]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wanted", "workers", "actions"), TABLE, ids=[t[0] for t in TABLE])
def test_which_workers_start_and_leave(
    name: str, wanted: WorkerCounts, workers: list[WorkerView], actions: list[Action]
) -> None:
    assert next_actions(wanted, workers) == actions


class World:
    """Carries out actions: the test ends starts and drains."""

    def __init__(self) -> None:
        self.workers: dict[tuple[Role, int], WorkerView] = {
            (role, 0): worker(role, 0) for role in (P, D)
        }

    def look(self, wanted: WorkerCounts) -> list[Action]:
        actions = next_actions(wanted, list(self.workers.values()))
        for action in actions:
            key = (action.role, action.index)
            match action:
                case Start():
                    assert key not in self.workers
                    self.workers[key] = starting(*key)
                case Cancel():
                    assert self.workers.pop(key).stage is WorkerStage.STARTING
                case Retire():
                    assert self.workers[key].stage is WorkerStage.SERVING
                    self.workers[key] = leaving(*key)
                    assert any(self.is_ready(role=action.role)), "no worker is left to take turns"
        return actions

    def is_ready(self, role: Role) -> list[bool]:
        return [w.is_ready and w.stage is WorkerStage.SERVING for w in self.of(role)]

    def of(self, role: Role) -> list[WorkerView]:
        return [w for w in self.workers.values() if w.role is role]

    def all_go_on(self) -> None:
        """Starts and drains end, and who was lost is back."""
        for key, seen in list(self.workers.items()):
            if seen.stage is WorkerStage.LEAVING:
                del self.workers[key]
            else:
                self.workers[key] = worker(*key)


wishes = st.builds(counts, st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=60)
@given(st.lists(st.tuples(wishes, st.booleans(), st.integers(0, 8)), min_size=1, max_size=8))
def test_any_sequence_of_wishes_ends_with_the_last_one(
    steps: list[tuple[WorkerCounts, bool, int]],
) -> None:
    world = World()
    for wanted, goes_on, victim in steps:
        world.look(wanted)
        if goes_on:
            world.all_go_on()
        keys = [key for key, seen in world.workers.items() if seen.stage is WorkerStage.SERVING]
        if victim < len(keys):
            world.workers[keys[victim]] = lost(*keys[victim])

    for _ in range(20):
        world.all_go_on()
        world.look(wanted)

    assert world.look(wanted) == []
    assert {role: len(world.of(role)) for role in Role} == {role: wanted.of(role) for role in Role}
