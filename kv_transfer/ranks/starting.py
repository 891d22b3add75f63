"""Loads a worker's model, with its other ranks if it has any."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator

from segue.engine.config import EngineConfig
from segue.process.cores import UsableCores, core_lists, in_brief_thread, keep_to
from segue.worker.load import LoadedModel, load_runner
from segue.worker.process.options import WorkerOptions
from segue.worker.ranks.starting import FollowersStart

logger = logging.getLogger(__name__)

HERE = FollowersStart.here("kv_transfer.ranks.follower")
"""Other ranks are children of the worker's process."""


@contextlib.asynccontextmanager
async def loading(
    options: WorkerOptions,
    engine: EngineConfig,
    *,
    max_drafts: int = 0,
    with_scratch: bool = False,
    niceness: int = 0,
    is_for_steps: bool = False,
    followers: FollowersStart = HERE,
) -> AsyncIterator[LoadedModel]:
    """The model, loaded in a thread, and its other ranks, until the block ends. This process and
    they stay on the worker's cores from then on. `niceness`: of the engine's thread.
    `is_for_steps`: it decodes, rather than computes prompts. Raises InvalidCheckpoint and
    InvalidConfig."""
    limits_threads = is_for_steps and not engine.num_threads
    engine = _on_its_cores(engine)
    loaded = await in_brief_thread(
        lambda: load_runner(
            options.model,
            engine,
            max_drafts=max_drafts,
            with_scratch=with_scratch,
            followers=followers,
            niceness=niceness,
            limits_threads=limits_threads,
        )
    )
    with contextlib.closing(loaded.runner):
        yield loaded


def _on_its_cores(engine: EngineConfig) -> EngineConfig:
    """Call it before computing threads start: they inherit the cores."""
    usable = UsableCores.of_process()
    engine = engine.on(usable, threads_are_set="OMP_NUM_THREADS" in os.environ)
    _restrict(engine, usable)
    logger.info(
        "cores settled, by [engine], [prefill] and [decode] cores and [engine] num_threads",
        extra={"cores": engine.cores, "num_threads": engine.num_threads or "OMP_NUM_THREADS"},
    )
    return engine


def keep_to_leaders_cores(engine: EngineConfig) -> None:
    """For a follower that is not a child of its leader. Its machine may lack some of these
    cores."""
    _restrict(engine, UsableCores.of_process())


def _restrict(engine: EngineConfig, usable: UsableCores) -> None:
    (wanted,) = core_lists(engine.cores)
    cores = wanted & usable.cores
    if cores and cores != usable.cores:
        keep_to(cores)
