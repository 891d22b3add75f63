"""`python -m benchmarks.serving`: tables, and as the last line of stdout one JSON object."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import tempfile
from pathlib import Path
from time import monotonic
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.serving.checkpoint import save_random_checkpoint
from benchmarks.serving.environment import this_environment
from benchmarks.serving.peer import Transformers
from benchmarks.serving.result import Result
from benchmarks.serving.run import Report, Subject, measure, summarise
from benchmarks.serving.show import headline, tables
from benchmarks.serving.workload import FULL, QUICK, Workload
from router.config import RouterConfig
from segue.engine.config import EngineConfig
from segue.launch.cluster import running_cluster
from segue.launch.config import ClusterConfig, Config
from segue.model.checkpoint.source import resolve_model

RANDOM = "random"
# A file has no width of its own; the tables fit this.
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
    started_at = monotonic()
    progress = Console(stderr=True, highlight=False)

    def report(stage: str) -> None:
        progress.print(f"[dim]{monotonic() - started_at:6.1f} s[/] {stage}", soft_wrap=True)

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
        _show(_run(config, folder, QUICK if quick else FULL, report))


def _run(config: Config, folder: Path, workload: Workload, report: Report) -> Result:
    environment = this_environment()
    torch.set_num_threads(config.engine.num_threads)
    report("loading the peer")
    peer = Transformers(folder)
    with running_cluster(config, report) as cluster:
        subject = Subject.of(folder, cluster=cluster, peer=peer, workload=workload)
        measured = asyncio.run(measure(subject, report))
    return summarise(subject, measured, environment)


def _show(result: Result) -> None:
    out = Console(highlight=False, width=_WIDTH)
    out.print(headline(result))
    for table in tables(result):
        out.print()
        out.print(table)
    typer.echo(json.dumps(dataclasses.asdict(result)))


if __name__ == "__main__":
    typer.run(main)
