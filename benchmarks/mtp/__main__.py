"""`python -m benchmarks.mtp`: tables, and as the last line of stdout one JSON object."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.mtp.coupling import CouplingRow, measure_coupling
from benchmarks.mtp.measure import BatchRow, load, measure
from benchmarks.mtp.models import Subject, demo, demo_texts, published_shape, random_large
from benchmarks.mtp.show import batch_table, coupling_table
from benchmarks.serving.environment import this_environment
from segue.engine.config import EngineConfig

# A file has no width of its own; the tables fit this.
_WIDTH = 150
_MODELS = ("demo", "random", "0.8b")


def main(
    model: Annotated[
        str, typer.Option(help="demo, random (107 M) or 0.8b; empty runs the first two.")
    ] = "",
    models: Annotated[
        Path, typer.Option(help="Folder of the 0.8b checkpoints, which are made on first use.")
    ] = Path("/tmp/segue-peers"),
    draft_vocabulary: Annotated[
        int, typer.Option(help="Tokens that may be drafted, as [engine] draft_vocabulary; 0: all.")
    ] = EngineConfig().draft_vocabulary,
    quick: Annotated[bool, typer.Option(help="A few prompts, one round: does it run?")] = False,
) -> None:
    """One decode engine, with and without drafts, on the same prompts."""
    if model and model not in _MODELS:
        raise typer.BadParameter(f"must be one of {', '.join(_MODELS)}, got {model!r}")
    started_at = monotonic()
    progress = Console(stderr=True, highlight=False)

    def report(stage: str) -> None:
        progress.print(f"[dim]{monotonic() - started_at:6.1f} s[/] {stage}", soft_wrap=True)

    # Steps are timed by this thread's clock.
    torch.set_num_threads(1)
    environment = this_environment()
    out = Console(highlight=False, width=_WIDTH)
    batches, coupling = list[BatchRow](), list[CouplingRow]()
    with tempfile.TemporaryDirectory() as scratch:
        for subject in _subjects(model, models, Path(scratch), is_quick=quick):
            runner = load(subject, draft_vocabulary)
            for row in measure(runner, subject, report):
                batches.append(row)
                out.print(batch_table(row))
            if subject.name == "demo":
                report("demo, acceptance of sampled drafts")
                coupling += measure_coupling(
                    runner,
                    demo_texts(subject.folder, 2 if quick else 24),
                    temperatures=(1.0, 0.7),
                    num_seeds=2 if quick else 8,
                )
                out.print(coupling_table(coupling))
    result = {
        "benchmark": "mtp",
        "environment": dataclasses.asdict(environment),
        "batches": [dataclasses.asdict(row) for row in batches],
        "coupling": [dataclasses.asdict(row) for row in coupling],
    }
    typer.echo(json.dumps(result))


def _subjects(model: str, models: Path, scratch: Path, *, is_quick: bool) -> Iterator[Subject]:
    if model in ("", "demo"):
        yield demo(is_quick=is_quick)
    if model in ("", "random"):
        yield random_large(scratch, is_quick=is_quick)
    if model == "0.8b":
        yield published_shape(models)


if __name__ == "__main__":
    typer.run(main)
