"""A leader that waits for its followers: asks again what died, and gives up in words."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from ray.exceptions import RayActorError

from segue.launch.ray.ranks.gathering import gathered
from segue.parallel.network import MessageChannel
from segue.parallel.rank import RanksLost


@dataclass
class Connection:
    name: str
    is_closed: bool = False

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Call:
    """To an actor whose process ends at a time."""

    world: World
    ends_at: float

    @property
    def is_over(self) -> bool:
        return self.world.now >= self.ends_at

    def result(self) -> Any:
        raise RayActorError


@dataclass
class World:
    """Ranks by the time that each of their lives takes to connect, or to die before it does."""

    connects: dict[int, list[float]]
    dies: dict[int, list[float]] = field(default_factory=dict)
    now: float = 0.0
    asked: list[tuple[int, float]] = field(default_factory=list)
    on_their_way: list[tuple[float, int]] = field(default_factory=list)
    came: list[Connection] = field(default_factory=list)

    def ask(self, rank: int) -> Call:
        self.asked.append((rank, self.now))
        if deaths := self.dies.get(rank):
            return Call(self, self.now + deaths.pop(0))
        if times := self.connects.get(rank):
            self.on_their_way.append((self.now + times.pop(0), rank))
        return Call(self, float("inf"))

    def next(self, timeout_s: float) -> tuple[int, MessageChannel] | None:
        self.on_their_way.sort()
        if self.on_their_way and self.on_their_way[0][0] <= self.now + timeout_s:
            at, rank = self.on_their_way.pop(0)
            self.now = max(at, self.now)
            self.came.append(Connection(f"rank {rank} at {self.now:g}"))
            return rank, cast(MessageChannel, self.came[-1])
        self.now += timeout_s
        return None

    def gather(self, num_followers: int) -> list[str]:
        found = gathered(self, self.ask, num_followers, timeout_s=30.0, clock=lambda: self.now)
        return [cast(Connection, channel).name for channel in found]


def test_connections_are_in_rank_order_whoever_comes_first() -> None:
    world = World(connects={1: [3.0], 2: [1.0], 3: [2.0]})

    assert world.gather(3) == ["rank 1 at 3", "rank 2 at 1", "rank 3 at 2"]
    assert world.asked == [(1, 0.0), (2, 0.0), (3, 0.0)]


def test_a_rank_whose_process_ends_is_asked_again_but_not_at_once() -> None:
    """It was the follower of the leader before, or is not started again yet."""
    world = World(connects={1: [1.0], 2: [1.0]}, dies={2: [0.0, 0.0, 4.0]})

    assert world.gather(2)[0] == "rank 1 at 1"
    times = [at for rank, at in world.asked if rank == 2]
    assert len(times) == 4
    assert all(0.5 < after - before < 5.0 for before, after in itertools.pairwise(times))
    assert [rank for rank, _ in world.asked].count(1) == 1


def test_a_stranger_among_the_ranks_does_not_count() -> None:
    world = World(connects={1: [2.0]})
    world.on_their_way = [(0.5, 7), (0.6, 0)]

    assert world.gather(1) == ["rank 1 at 2"]
    assert [connection.is_closed for connection in world.came] == [True, True, False]


def test_who_does_not_come_is_named_and_who_came_is_let_go() -> None:
    world = World(connects={2: [1.0]})

    with pytest.raises(RanksLost, match=r"rank 1, 3 did not connect in 30 s: .*worker_host"):
        world.gather(3)

    assert [connection.is_closed for connection in world.came] == [True]
