"""Loads a runner and its memory, from a model's name and `[engine]`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from segue.api.errors import InvalidConfig
from segue.engine.budget import MemoryForWorkers, WorkerNeed, planned, planned_alone
from segue.engine.config import EngineConfig, PoolSizes, pool_sizes
from segue.engine.host_memory import MachineMemory, read_host_memory
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel
from segue.model.checkpoint.source import resolve_model
from segue.parallel.followers import Followers
from segue.process.heap import keep_freed_memory
from segue.worker.ranks.starting import FollowersStart, load_leading

logger = logging.getLogger(__name__)

BYTES_PER_THREAD = 8 << 20
"""Of weights. A thread that reads less in a step mostly waits for the others at the end of each
product, and if another process takes one of their cores, all wait: one busy loop beside two threads
made steps of the demo model ten times as long, and those of one thread no longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    folder: Path
    engine: EngineConfig
    """As configured, with the resulting `cache_bytes`, `max_running` and `num_threads`."""
    runner: ModelRunner
    sizes: PoolSizes
    followers: Followers | None = None
    """The worker's other ranks, if there are any."""


def load_runner(
    model: str,
    engine: EngineConfig,
    *,
    max_drafts: int = 0,
    with_scratch: bool = False,
    followers: FollowersStart | None = None,
    niceness: int = 0,
    limits_threads: bool = False,
) -> LoadedModel:
    """`max_drafts`: for each running sequence, if the model can draft. `with_scratch`: see
    `ModelRunner.load`. `limits_threads`: a CPU gets no more threads than steps of this model keep
    busy. `followers`: needed for more than one rank, whose engine threads then get
    `niceness`. Close the runner afterwards.

    Raises InvalidCheckpoint, InvalidConfig if there is not enough memory or the model cannot be
    split, and RanksLost.
    """
    require_device(engine.device)
    served = ServedModel.of(resolve_model(model, with_weights=True), engine)
    need = served.need(max_drafts=max_drafts)
    num_threads = engine.num_threads or torch.get_num_threads()
    most = max(need.weight_bytes // BYTES_PER_THREAD, 1)
    if limits_threads and engine.device == "cpu" and num_threads > most:
        logger.info("small weights need fewer threads", extra={"num_threads": most})
        num_threads = most
    torch.set_num_threads(num_threads)
    engine = replace(engine, num_threads=num_threads)
    layout = need.layout
    engine = _settled(need, engine)
    sizes = pool_sizes(layout, engine, max_context=need.max_context, max_drafts=need.max_drafts)
    started = None
    runner: ModelRunner
    try:
        if engine.tensor_parallel > 1:
            assert followers is not None, "the caller chooses how other ranks are started"
            runner = load_leading(
                model,
                served,
                engine,
                sizes,
                with_scratch=with_scratch,
                followers=followers,
                niceness=niceness,
            )
            started = runner.followers
        else:
            runner = ModelRunner.load(
                served,
                num_pages=sizes.num_pages,
                num_slots=sizes.num_slots,
                with_scratch=with_scratch,
            )
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        raise InvalidConfig(
            f"the memory of {engine.device} is too small for the weights and a cache of [engine] "
            f"cache_bytes = {engine.cache_bytes}: lower it, or serve a smaller checkpoint ({error})"
        ) from error
    # Not before: weights and pools have mappings of their own, and return to the system if freed.
    keep_freed_memory()
    logger.info(
        "cache allocated, sized by [engine] cache_bytes, max_running and the model's context",
        extra={
            "num_pages": sizes.num_pages,
            "page_tokens": engine.page_tokens,
            "num_slots": sizes.num_slots,
            "max_running": engine.max_running,
            "num_bytes": layout.num_bytes(sizes.num_pages, sizes.num_slots),
        },
    )
    return LoadedModel(
        folder=served.folder, engine=engine, runner=runner, sizes=sizes, followers=started
    )


def _settled(need: WorkerNeed, engine: EngineConfig) -> EngineConfig:
    """Sets `cache_bytes` to a number, if `segue serve` has not done so. Raises InvalidConfig if the
    weights do not fit.
    """
    if isinstance(engine.cache_bytes, int):
        return engine
    if engine.device != "cpu":
        free, total = torch.cuda.mem_get_info()
        memory = MachineMemory(place="the GPU", total_bytes=total, free_bytes=free)
        return planned(need, engine, MemoryForWorkers.on_gpu(memory, share=engine.gpu_share))
    host = read_host_memory()
    if host is None:
        raise InvalidConfig(
            '[engine] cache_bytes = "auto" needs to know how much memory is free, but this system '
            "has no /proc/meminfo: set a number of bytes"
        )
    return planned_alone(need, engine, host)


def _is_lack_of_memory(error: BaseException) -> bool:
    """On a CPU, torch raises a RuntimeError for it."""
    words = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        hint in words for hint in ("can't allocate memory", "unable to mmap", "out of memory")
    )


def require_device(device: str) -> None:
    """Raises InvalidConfig if the device is not available."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidConfig(
            '[engine] device = "cuda", but torch sees no GPU here: check the driver, '
            'CUDA_VISIBLE_DEVICES and that torch is a CUDA build, or set "cpu"'
        )
