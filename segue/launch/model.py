"""Settles which model is served and how much memory it gets, before Ray starts and before a
download.

a folder    check the model's kind, its files, and that weights and caches fit ─▶ start
a hub id    the same with its list of files and config.json ─▶ download ─▶ as a folder
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from segue.api.errors import InvalidConfig, SegueError
from segue.engine.budget import MemoryForWorkers, WorkerNeed, check_host, planned, size
from segue.engine.config import MAX_RANKS, EngineConfig, pool_sizes
from segue.engine.host_memory import MachineMemory, read_gpu_memory, read_host_memory
from segue.engine.served_model import ServedModel
from segue.launch.config import Config
from segue.model.checkpoint.formats import refuse_foreign, refuse_quantised
from segue.model.checkpoint.source import hub_files, is_local, resolve_model

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine's memory. None means unknown, and is not checked."""

    host: MachineMemory | None
    gpu: MachineMemory | None = None

    @classmethod
    def here(cls, device: str) -> Machine:
        return cls(host=read_host_memory(), gpu=read_gpu_memory() if device == "cuda" else None)


def locate(
    config: Config, report: Report, *, machine: Machine | None = None
) -> tuple[str, Config, str]:
    """The path that processes load, the configuration with its memory settled, and a description.

    A worker on a GPU settles its own memory, so here it is only checked. Nodes of another Ray
    cluster have their own folders, caches and memory: the name stays unresolved, and the workers
    settle their memory. A folder that also exists here is checked.
    """
    model = config.cluster.model
    if config.cluster.ray_address:
        if is_local(model):
            _check(resolve_model(model, with_weights=True), config)
        return model, config, ""
    machine = machine or Machine.here(config.engine.device)
    if not is_local(model):
        _judge_hub(model, config, machine, report)
    folder = resolve_model(model, with_weights=True)
    need, engine = _settled(partial(_check, folder), config, machine)
    words = memory_in_words(need, engine, config)
    if engine.device == "cpu":
        config = replace(config, engine=engine)
    return str(folder), config, words


def memory_in_words(need: WorkerNeed, engine: EngineConfig, config: Config) -> str:
    """One line: the memory of each worker, and what a decode worker can hold in it. Empty if
    workers settle it themselves.
    """
    if not isinstance(engine.cache_bytes, int):
        return ""
    sizes = pool_sizes(
        need.layout, engine, max_context=need.max_context, max_drafts=need.max_drafts
    )
    lowered = engine.max_running < config.engine.max_running
    return (
        f"memory: {config.num_worker_processes} {_unit(config)}s × (weights "
        f"{size(need.weight_bytes)} + cache {size(engine.cache_bytes)}); a decode worker has "
        f"{sizes.num_slots} slots of {size(need.layout.slot_bytes)} and pages for "
        f"{sizes.num_pages * need.layout.page_tokens} tokens, and runs {engine.max_running} turns "
        f"at once"
        + (f" (max_running = {config.engine.max_running} does not fit)" if lowered else "")
    )


def _unit(config: Config) -> str:
    """The noun for each process of `num_worker_processes`."""
    num_workers = config.cluster.prefill + config.cluster.decode
    return "worker" if config.num_worker_processes == num_workers else "rank"


def described(config: Config) -> str:
    """The description from `locate` for a local folder. For `--print-config`, so nothing is
    downloaded and nothing raised.
    """
    if config.cluster.ray_address or not is_local(config.cluster.model):
        return ""
    try:
        return locate(config, lambda _: None)[2]
    except SegueError as error:
        return str(error)


def check_more_workers(
    model: str, config: Config, num_workers: int, *, machine: Machine | None = None
) -> None:
    """Raises InvalidConfig if this machine lacks the memory for this number of additional workers.
    Workers on GPUs and on other machines settle their own memory. `model`: their folder."""
    if config.cluster.ray_address or config.engine.device != "cpu":
        return
    host = (machine or Machine.here("cpu")).host
    if host is not None:
        need = _check(Path(model), config)
        planned(need, config.engine, MemoryForWorkers(memory=host, num_workers=num_workers))


def _check(folder: Path, config: Config) -> WorkerNeed:
    """A rank's need, in the role whose ranks need most. Raises InvalidConfig if the model cannot be
    split as configured."""
    skip_tokenizer = config.checkpoint.skip_tokenizer
    engines = set(config.engines.values())
    served = [ServedModel.of(folder, one, skip_tokenizer=skip_tokenizer) for one in engines]
    largest = max(served, key=lambda model: model.weight_bytes)
    return largest.need(max_drafts=config.decode.max_drafts)


def _estimate(folder: Path, published_bytes: int, config: Config) -> WorkerNeed:
    """As `_check`, from a folder without its weights."""
    engine = min(config.engines.values(), key=lambda engine: engine.tensor_parallel)
    served = ServedModel.before_download(folder, engine, published_bytes=published_bytes)
    return served.need(max_drafts=config.decode.max_drafts)


def _settled(
    need_of: Callable[[Config], WorkerNeed], config: Config, machine: Machine
) -> tuple[WorkerNeed, EngineConfig]:
    """A rank's need, and the settings that it gets. Raises InvalidConfig if it does not fit, naming
    a number of ranks that would fit, if there is one."""
    need = need_of(config)
    try:
        return need, _settle(need, config, machine)
    except InvalidConfig as error:
        if count := _fitting_ranks(need_of, config, machine):
            raise InvalidConfig(
                f"{error}. [engine] tensor_parallel = {count} would fit, with {count} such GPUs "
                "for each worker"
            ) from None
        raise


def _fitting_ranks(
    need_of: Callable[[Config], WorkerNeed], config: Config, machine: Machine
) -> int | None:
    """The smallest doubled number of ranks with which a GPU's part of the model fits."""
    if config.engine.device != "cuda":
        return None
    count = 2 * config.engine.tensor_parallel
    while count <= MAX_RANKS:
        try:
            more = replace(config, engine=replace(config.engine, tensor_parallel=count))
            _settle(need_of(more), more, machine)
        except InvalidConfig:
            count *= 2
        else:
            return count
    return None


def _settle(need: WorkerNeed, config: Config, machine: Machine) -> EngineConfig:
    """Raises InvalidConfig if it does not fit."""
    engine, processes = config.engine, (config.num_worker_processes, _unit(config))
    if engine.device == "cuda":
        if machine.host is not None:
            check_host(engine, MemoryForWorkers.on_host(machine.host, *processes))
        if machine.gpu is None:
            return engine
        return planned(need, engine, MemoryForWorkers.on_gpu(machine.gpu, share=engine.gpu_share))
    if machine.host is None:
        return engine
    return planned(need, engine, MemoryForWorkers.on_host(machine.host, *processes))


def _judge_hub(model: str, config: Config, machine: Machine, report: Report) -> None:
    """Rejects a model that cannot be served before its weights are downloaded. If the hub does not
    answer, the local hub cache is checked later, as a folder.
    """
    files = hub_files(model)
    if files is None:
        return
    refuse_foreign(files, model)
    refuse_quantised(files)
    folder = resolve_model(model, with_weights=False)
    published_bytes = _weights_of(files)
    _settled(partial(_estimate, folder, published_bytes), config, machine)
    report(f"downloading {size(published_bytes)} of weights, unless they are already here")


def _weights_of(files: Mapping[str, int]) -> int:
    """The published size: an estimate, which includes a vision tower if there is one."""
    return sum(num_bytes for name, num_bytes in files.items() if name.endswith(".safetensors"))
