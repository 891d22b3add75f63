"""Starts the ranks of a worker and loads each one's part of the model, all at the same time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from segue.cache.tensors import CacheTensors
from segue.engine.config import EngineConfig, PoolSizes, host_pool_sizes
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel
from segue.parallel.followers import Followers, gpu_of_rank
from segue.parallel.group import join_ranks
from segue.parallel.rank import Rank, RanksLost
from segue.worker.ranks.leading import LeadingRunner

Runner = TypeVar("Runner", bound=ModelRunner)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSetup:
    """What a follower is started with."""

    rank: Rank
    meeting: Path
    served: ServedModel
    engine: EngineConfig
    sizes: PoolSizes
    niceness: int = 0
    """Of the engine's thread."""


def load_leading(
    served: ServedModel,
    engine: EngineConfig,
    sizes: PoolSizes,
    *,
    module: str,
    niceness: int,
    on_lost: Callable[[RanksLost], None],
) -> LeadingRunner:
    """Starts followers that run `module`. Returns when every rank has loaded its part.

    Raises RanksLost if a follower ends before.
    """
    folder = Path(tempfile.mkdtemp(prefix="segue-ranks-"))
    setups = [
        RankSetup(
            rank=rank,
            meeting=folder / "meeting",
            served=served,
            engine=engine,
            sizes=sizes,
            niceness=niceness,
        )
        for rank in engine.ranks
    ]
    has_gpus = engine.device == "cuda"
    followers = Followers.start(
        module,
        setups[1:],
        on_lost,
        [gpu_of_rank(os.environ, s.rank.index) if has_gpus else {} for s in setups[1:]],
    )
    try:
        runner = load_rank(setups[0], LeadingRunner)
        runner.followers = followers
        followers.ask_all("loaded")
    except BaseException:
        followers.close()
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return runner


def load_rank(setup: RankSetup, kind: type[Runner]) -> Runner:
    group = join_ranks(setup.rank, setup.served.device, setup.meeting)
    return kind.load(
        setup.served,
        num_pages=setup.sizes.num_pages,
        num_slots=setup.sizes.num_slots,
        group=group,
    )


def host_tensors(runner: ModelRunner, engine: EngineConfig) -> CacheTensors:
    """The host tier's memory for what this rank keeps. Raises InvalidConfig if it is too small."""
    layout = runner.tensors.layout
    sizes = host_pool_sizes(layout, engine)
    return CacheTensors.allocate(
        layout,
        num_pages=sizes.num_pages,
        num_slots=sizes.num_slots,
        device="cpu",
        pinned=runner.tensors.device.type == "cuda",
    )
