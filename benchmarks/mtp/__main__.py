"""`python -m benchmarks.mtp`: tables, and as the last line of stdout one JSON object."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.harness.environment import this_environment
from benchmarks.harness.output import progress, show, show_json
from benchmarks.mtp.coupling import CouplingRow, measure_coupling
from benchmarks.mtp.measure import BatchRow, load, measure
from benchmarks.mtp.models import Subject, demo, demo_texts, published_shape, random_large
from benchmarks.mtp.show import batch_table, coupling_table
from segue.engine.config import EngineConfig

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
    report = progress()
    # Steps are timed by this thread's clock.
    torch.set_num_threads(1)
    environment = this_environment()
    batches, coupling = list[BatchRow](), list[CouplingRow]()
    with tempfile.TemporaryDirectory() as scratch:
        for subject in _subjects(model, models, Path(scratch), is_quick=quick):
            runner = load(subject, draft_vocabulary)
            for row in measure(runner, subject, report):
                batches.append(row)
                show([batch_table(row)], width=_WIDTH)
            if subject.name == "demo":
                report("demo, acceptance of sampled drafts")
                coupling += measure_coupling(
                    runner,
                    demo_texts(subject.folder, 2 if quick else 24),
                    temperatures=(1.0, 0.7),
                    num_seeds=2 if quick else 8,
                )
                show([coupling_table(coupling)], width=_WIDTH)
    show_json(
        {
            "benchmark": "mtp",
            "environment": dataclasses.asdict(environment),
            "batches": [dataclasses.asdict(row) for row in batches],
            "coupling": [dataclasses.asdict(row) for row in coupling],
        }
    )


def _subjects(model: str, models: Path, scratch: Path, *, is_quick: bool) -> Iterator[Subject]:
    if model in ("", "demo"):
        yield demo(is_quick=is_quick)
    if model in ("", "random"):
        yield random_large(scratch, is_quick=is_quick)
    if model == "0.8b":
        yield published_shape(models)


if __name__ == "__main__":
    typer.run(main)
