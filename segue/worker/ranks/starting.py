"""Starts the ranks of a worker and loads each one's part of the model, all at the same time."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from segue.cache.tensors import CacheTensors
from segue.engine.config import EngineConfig, PoolSizes, host_pool_sizes
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel
from segue.model.checkpoint.source import resolve_model
from segue.parallel.followers import Followers, OnLost, gpu_of_rank
from segue.parallel.group import Meeting, join_ranks
from segue.parallel.network import listening_on
from segue.parallel.rank import Rank, RanksLost
from segue.process.heap import keep_freed_memory
from segue.wire.addresses import Hosts
from segue.worker.process.serving import leave_process
from segue.worker.ranks.leading import LeadingRunner

Runner = TypeVar("Runner", bound=ModelRunner)

LOOPBACK = Hosts("127.0.0.1", "127.0.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSetup:
    """The arguments of a follower."""

    rank: Rank
    meeting: Meeting
    host: str
    """An address of the rank's machine that the other ranks reach."""
    model: str
    """The checkpoint's name, by which another machine finds it."""
    served: ServedModel
    engine: EngineConfig
    sizes: PoolSizes
    with_scratch: bool = False
    """See `ModelRunner.load`."""
    niceness: int = 0
    """The niceness of the engine thread."""

    def on(self, host: str) -> RankSetup:
        """The same for another machine, with that machine's copy of the checkpoint. Raises
        InvalidCheckpoint, and RanksLost if it is another checkpoint."""
        folder = resolve_model(self.model, with_weights=True)
        served = ServedModel.of(folder, self.engine)
        if served.layout != self.served.layout:
            raise RanksLost(
                f"{folder} on {host} is not the checkpoint that the first rank serves "
                f"({served.layout.model_id}, expected {self.served.layout.model_id})"
            )
        return replace(self, host=host, served=replace(self.served, folder=folder))


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowersStart:
    """How a leader starts its followers."""

    start: Callable[[Sequence[RankSetup], OnLost], Followers]
    """Raises RanksLost."""
    hosts: Hosts
    """Where the ranks meet, on the leader's machine."""

    @classmethod
    def here(cls, module: str) -> FollowersStart:
        """Starts them as children of this process that run `module`."""

        def start(setups: Sequence[RankSetup], on_lost: OnLost) -> Followers:
            environments = [
                gpu_of_rank(os.environ, setup.rank.index) if setup.served.device == "cuda" else {}
                for setup in setups
            ]
            return Followers.start(module, setups, on_lost, environments)

        return cls(start=start, hosts=LOOPBACK)


def load_leading(
    model: str,
    served: ServedModel,
    engine: EngineConfig,
    sizes: PoolSizes,
    *,
    with_scratch: bool,
    followers: FollowersStart,
    niceness: int,
) -> LeadingRunner:
    """Starts the followers. Returns when every rank has loaded its part.

    Raises RanksLost if a follower ends before. If one ends later, so does this process.
    """
    hosts = followers.hosts
    with contextlib.closing(listening_on(hosts.listen)) as listening:
        setups = [
            RankSetup(
                rank=rank,
                meeting=Meeting(hosts.announce, listening.getsockname()[1]),
                host=hosts.announce,
                model=model,
                served=served,
                engine=engine,
                sizes=sizes,
                with_scratch=with_scratch,
                niceness=niceness,
            )
            for rank in engine.ranks
        ]
        started = followers.start(setups[1:], leave_process)
        try:
            runner = load_rank(setups[0], LeadingRunner, listening)
            runner.followers = started
            started.ask_all("loaded")
        except BaseException:
            started.close()
            raise
    return runner


def load_rank(
    setup: RankSetup, kind: type[Runner], listening: socket.socket | None = None
) -> Runner:
    """`listening`: the first rank's socket at the meeting."""
    group = join_ranks(
        setup.rank, setup.served.device, setup.meeting, host=setup.host, listening=listening
    )
    runner = kind.load(
        setup.served,
        num_pages=setup.sizes.num_pages,
        num_slots=setup.sizes.num_slots,
        with_scratch=setup.with_scratch,
        group=group,
    )
    keep_freed_memory()
    return runner


def host_tensors(runner: ModelRunner, engine: EngineConfig) -> CacheTensors:
    """The host tier's memory of this rank. Raises InvalidConfig if it is too small."""
    layout = runner.tensors.layout
    sizes = host_pool_sizes(layout, engine)
    return CacheTensors.allocate(
        layout,
        num_pages=sizes.num_pages,
        num_slots=sizes.num_slots,
        device="cpu",
        pinned=runner.tensors.device.type == "cuda",
    )
