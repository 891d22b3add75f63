"""`python -m benchmarks.agentic`: tables, a plot, and as the last line one JSON object."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.agentic.emptied import LONG, SHORT, SMALL, WIDE, EmptiedRow, try_emptied
from benchmarks.agentic.modes import Mode
from benchmarks.agentic.plot import save_plot
from benchmarks.agentic.result import ModeResult, Result
from benchmarks.agentic.run import Measured, run_modes
from benchmarks.agentic.show import headline, tables
from benchmarks.agentic.targets import targets
from benchmarks.agentic.workload import Workload
from benchmarks.harness.checkpoint import (
    save_agentic_checkpoint,
    save_random_checkpoint,
    save_small_checkpoint,
)
from benchmarks.harness.environment import Environment, this_environment
from benchmarks.harness.output import Report, progress, show, show_json
from kv_transfer.config import TransferConfig
from router.config import RouterConfig
from segue.engine.config import EngineConfig
from segue.engine.served_model import ServedModel
from segue.launch.config import ClusterConfig, Config
from segue.model.checkpoint.source import resolve_model
from segue.model.config import ModelConfig

RANDOM = "random"
_WIDTH = 150
_QUICK_SCALE = 1 / 500
_SLOW_GBIT_PER_S = 0.1


def main(
    model: Annotated[
        str, typer.Option(help="'random' (24 M parameters, float32), 'demo', folder or hub id.")
    ] = RANDOM,
    scale: Annotated[float, typer.Option(help="Token-count factor: 1 is as published.")] = 1 / 25,
    sessions: Annotated[int, typer.Option(min=1)] = 2,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each worker.")] = 1,
    page_tokens: Annotated[
        int, typer.Option(min=1, help="64 of them, scaled, are between 2 and 3.")
    ] = 4,
    link_gbit: Annotated[
        float, typer.Option(min=0, help="Send limit of each worker; 0: no limit but loopback.")
    ] = 0.0,
    mode: Annotated[
        list[Mode] | None,
        typer.Option(help="May be repeated. Default: all, and trials with an emptied cache."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Path of the PNG.")] = None,
    seed: int = 0,
    quick: Annotated[bool, typer.Option(help="A tiny model, a few turns: does it run?")] = False,
) -> None:
    """The published agentic workload through real clusters with parts switched off."""
    report = progress()
    environment = this_environment()
    with tempfile.TemporaryDirectory() as scratch:
        if model == RANDOM:
            report("making a random checkpoint")
            folder = save_agentic_checkpoint(Path(scratch) / RANDOM, is_quick=quick)
        else:
            folder = resolve_model(model, with_weights=True)
        config = Config(
            cluster=ClusterConfig(model=str(folder) if model == RANDOM else model, http=False),
            router=RouterConfig(port=0),
            engine=EngineConfig(num_threads=threads, page_tokens=page_tokens),
            transfer=TransferConfig(max_gbit_per_s=link_gbit),
        )
        workload = Workload(
            scale=_QUICK_SCALE if quick else scale,
            sessions=min(sessions, 2) if quick else sessions,
            later_turns=(2, 3) if quick else (10, 15),
            arrival_gap_s=0.2 if quick else 4.0,
            tool_s=0.02 if quick else 0.5,
            think_s=0.1 if quick else 2.0,
            think_share=0.2,
            seed=seed,
        )
        vocab_size = ModelConfig.from_folder(folder).vocab_size
        measured = run_modes(
            list(Mode) if mode is None else mode,
            config,
            workload,
            vocab_size=vocab_size,
            report=report,
        )
        rows: tuple[EmptiedRow, ...] = ()
        if mode is None:
            rows = _try_emptied(Path(scratch), folder, config, is_quick=quick, report=report)
        _show(_summarise(measured, rows, environment, config, workload, folder), plot)


def _try_emptied(
    scratch: Path, folder: Path, config: Config, *, is_quick: bool, report: Report
) -> tuple[EmptiedRow, ...]:
    torch.set_num_threads(config.engine.num_threads)
    small = save_small_checkpoint(scratch / "small")
    trials = [("small", small, SHORT if is_quick else SMALL, config)]
    if not is_quick:
        wide = save_random_checkpoint(scratch / "wide", is_quick=False)
        # A link on which computing a short prefix is faster than moving it, but not a long one.
        slow = dataclasses.replace(
            config,
            transfer=dataclasses.replace(config.transfer, max_gbit_per_s=_SLOW_GBIT_PER_S),
        )
        trials += [
            (f"small, {_SLOW_GBIT_PER_S:g} Gbit/s", small, SMALL, slow),
            (folder.name, folder, LONG, config),
            ("107 M", wide, WIDE, config),
        ]
    return tuple(
        row
        for name, path, trial, of_trial in trials
        for row in asyncio.run(try_emptied(path, of_trial, trial, name=name, report=report))
    )


def _summarise(
    measured: dict[Mode, Measured],
    emptied: tuple[EmptiedRow, ...],
    environment: Environment,
    config: Config,
    workload: Workload,
    folder: Path,
) -> Result:
    layout = ServedModel.of(folder, config.engine).layout
    # The folder's location only matters on this machine.
    config = dataclasses.replace(
        config, cluster=dataclasses.replace(config.cluster, model=folder.name)
    )
    return Result(
        environment=environment,
        model=folder.name,
        page_bytes=layout.page_bytes,
        slot_bytes=layout.slot_bytes,
        config=dataclasses.asdict(config),
        workload=workload,
        modes=tuple(
            ModeResult.of(mode, of_mode.together, alone=of_mode.alone)
            for mode, of_mode in measured.items()
        ),
        targets=targets({mode: of_mode.alone for mode, of_mode in measured.items()}, layout),
        emptied=emptied,
        samples={
            mode.value: (*of_mode.alone, *of_mode.together) for mode, of_mode in measured.items()
        },
    )


def _show(result: Result, plot: Path | None) -> None:
    show(tables(result), width=_WIDTH, headline=headline(result))
    if plot is not None:
        save_plot(result, plot)
    show_json(dataclasses.asdict(result))


if __name__ == "__main__":
    typer.run(main)
