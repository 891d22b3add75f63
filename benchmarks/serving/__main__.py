"""`python -m benchmarks.serving`: tables, and as the last line of stdout one JSON object."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.harness.checkpoint import save_random_checkpoint
from benchmarks.harness.environment import this_environment
from benchmarks.harness.output import Report, progress, show, show_json
from benchmarks.serving.peer import Transformers
from benchmarks.serving.result import Result
from benchmarks.serving.run import Subject, measure, summarise
from benchmarks.serving.show import headline, tables
from benchmarks.serving.workload import FULL, QUICK, Workload
from router.config import RouterConfig
from segue.engine.config import EngineConfig
from segue.launch.cluster import running_cluster
from segue.launch.config import ClusterConfig, Config
from segue.model.checkpoint.source import resolve_model

RANDOM = "random"
_WIDTH = 110


def main(
    model: Annotated[
        str, typer.Option(help="'random' (107 M parameters, float32), 'demo', folder or hub id.")
    ] = RANDOM,
    threads: Annotated[
        int, typer.Option(help="Of the peer and of each worker; 0 is one per core.")
    ] = 0,
    quick: Annotated[bool, typer.Option(help="A tiny model, one round: does it run?")] = False,
) -> None:
    """The same prompts through a real cluster and through transformers in one process."""
    report = progress()
    with tempfile.TemporaryDirectory() as scratch:
        if model == RANDOM:
            report("making a random checkpoint")
            folder = save_random_checkpoint(Path(scratch) / RANDOM, is_quick=quick)
        else:
            folder = resolve_model(model, with_weights=True)
        config = Config(
            cluster=ClusterConfig(model=str(folder) if model == RANDOM else model, http=False),
            router=RouterConfig(port=0),
            engine=EngineConfig(num_threads=threads or os.cpu_count() or 1),
        )
        result = _run(config, folder, QUICK if quick else FULL, report)
    show(tables(result), width=_WIDTH, headline=headline(result))
    show_json(dataclasses.asdict(result))


def _run(config: Config, folder: Path, workload: Workload, report: Report) -> Result:
    environment = this_environment()
    torch.set_num_threads(config.engine.num_threads)
    report("loading the peer")
    peer = Transformers(folder)
    with running_cluster(config, report) as cluster:
        subject = Subject.of(folder, cluster=cluster, peer=peer, workload=workload)
        measured = asyncio.run(measure(subject, report))
    return summarise(subject, measured, environment)


if __name__ == "__main__":
    typer.run(main)
