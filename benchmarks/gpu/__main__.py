"""`python -m benchmarks.gpu`: tests, then tables; as the last line of stdout one JSON object."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Annotated, TypeVar

import torch
import typer
from rich.console import Console

from benchmarks.gpu import ceilings, handoff, models, passes
from benchmarks.gpu.result import Result
from benchmarks.gpu.show import save_plot, tables
from benchmarks.gpu.suite import run_tests
from benchmarks.serving.environment import this_environment

# A file has no width of its own; the tables fit this.
_WIDTH = 130
_TEST_LIMIT_S = 180.0

Row = TypeVar("Row")


class Clock:
    """Stops starting measurements when the time is up: a lease ends whether or not we are done."""

    def __init__(self, limit_s: float, report: Callable[[str], None]) -> None:
        self._limit_s = limit_s
        self._ends_at = monotonic() + limit_s
        self._report = report
        self.skipped: list[str] = []

    def up_to(self, share: float) -> None:
        """The following work ends when this share of the remaining time is over."""
        self._ends_at = monotonic() + share * self._limit_s

    def take(self, what: str, rows: Callable[[], Iterator[Row]]) -> Iterator[Row]:
        """The rows that fit into the time."""
        if monotonic() >= self._ends_at:
            self.skipped.append(what)
            return
        self._report(what)
        for row in rows():
            yield row
            if monotonic() >= self._ends_at:
                self.skipped.append(f"the rest of {what}")
                return


def main(
    dry: Annotated[
        bool, typer.Option(help="Tiny shapes on the CPU, kernels interpreted: does it run?")
    ] = False,
    tests: Annotated[bool, typer.Option(help="Run the tests first.")] = True,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG here.")] = None,
    seconds: Annotated[float, typer.Option(help="Time limit for measuring, in seconds.")] = 280.0,
) -> None:
    """Every kernel, whole passes and a handoff, on this machine's GPU, against its ceilings."""
    if dry:
        # Triton reads it on its first import.
        os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        raise typer.BadParameter("no CUDA device here; --dry runs tiny shapes on the CPU")
    started_at = monotonic()
    progress = Console(stderr=True, highlight=False)

    def report(stage: str) -> None:
        progress.print(f"[dim]{monotonic() - started_at:6.1f} s[/] {stage}", soft_wrap=True)

    report("tests" if tests else "no tests")
    tested = run_tests(_TEST_LIMIT_S) if tests else "not run"
    clock = Clock(seconds, report)
    result = _measure("cpu" if dry else "cuda", tested, clock)
    out = Console(highlight=False, width=_WIDTH)
    out.print(f"{result.device}: {result.ceilings}; tests: {result.tests}")
    for table in tables(result):
        out.print(table)
    if plot is not None:
        save_plot(result, plot)
    typer.echo(json.dumps(result.to_json()))


@torch.inference_mode()
def _measure(device: str, tested: str, clock: Clock) -> Result:
    # Imported after TRITON_INTERPRET is set: it imports kernels.
    from benchmarks.gpu import cases, operators, steps

    shapes, workload = _plan(device)
    limits = ceilings.measure(device)
    operator_rows, pass_rows = list[operators.OperatorRow](), list[passes.PassRow]()
    handoff_rows = list[handoff.HandoffRow]()
    # Half of the time for each: operators of the last model must leave time for whole passes.
    clock.up_to(0.5)
    for shape in shapes:
        operator_rows += clock.take(
            f"operators of {shape.name}",
            partial(operators.measure, shape.name, cases.all_cases(shape, device), limits, device),
        )
    clock.up_to(0.5)
    for shape in shapes:
        dtype = torch.bfloat16 if device != "cpu" else torch.float32
        weights = models.random_weights(shape.config(), dtype=dtype, device=device)
        pass_rows += clock.take(
            f"steps of {shape.name}",
            partial(steps.measure, shape, weights, workload, limits, device),
        )
        _release(device)
        pass_rows += clock.take(
            f"prompts of {shape.name}",
            partial(passes.prefill, shape, weights, workload, limits, device),
        )
        _release(device)
        handoff_rows += clock.take(
            f"handoff of {shape.name}",
            partial(handoff.measure, shape, weights, workload, device),
        )
        del weights
        _release(device)
    return Result(
        environment=this_environment(),
        device=torch.cuda.get_device_name() if device != "cpu" else "cpu, dry",
        tests=tested,
        ceilings=limits,
        operators=tuple(operator_rows),
        passes=tuple(pass_rows),
        handoffs=tuple(handoff_rows),
        skipped=tuple(clock.skipped),
    )


def _plan(device: str) -> tuple[Sequence[models.Shape], passes.Workload]:
    if device == "cpu":
        return models.DRY_SHAPES, passes.DRY_WORKLOAD
    return models.SHAPES, passes.Workload()


def _release(device: str) -> None:
    """The largest model and its caches do not fit next to another."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    typer.run(main)
