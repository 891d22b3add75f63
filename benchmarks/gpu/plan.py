"""The checks and measurements, most important first, because a run may be cut off."""

from __future__ import annotations

import gc
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import cases, models, operators
from benchmarks.gpu.bars import STEPS, operator_bar
from benchmarks.gpu.cases.attention import flashinfer_cases
from benchmarks.gpu.cases.setup import DRY, REAL, Make, Setup, Sizes
from benchmarks.gpu.flashinfer import is_usable
from benchmarks.gpu.passes import handoff, layers, prompts, steps
from benchmarks.gpu.timing import Ceilings
from segue.kernels.compiling import compiling

_ROOT = Path(__file__).parents[2]
_TESTS = ("tests/kernels", "tests/engine/test_graphs.py", "tests/kv_transfer/test_gpu_memory.py")
_NEEDED = ("pytest", "pytest_asyncio", "transformers")
_OUTPUT_CHARS = 2000
Row = dict[str, Any]
"""A measurement as it is written to JSON, with its `kind`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    device: str
    dtype: torch.dtype
    shapes: Sequence[models.Shape]
    operator_shapes: Sequence[models.Shape]
    """The shapes whose operators and layers are checked."""
    sizes: Sizes
    workload: prompts.Workload
    model_tokens: int
    """The length of the prompt for which whole layers are compared with references."""
    repeats: int = operators.REPEATS
    with_tests: bool = True
    with_flashinfer: bool = True
    """If it is installed."""


_BY_IMPORTANCE = [models.SHAPES[1], models.SHAPES[2], models.SHAPES[0]]
"""9B and 35B-A3B have bars."""
LEASE = Settings(
    device="cuda",
    dtype=torch.bfloat16,
    shapes=_BY_IMPORTANCE,
    operator_shapes=_BY_IMPORTANCE,
    sizes=REAL,
    workload=prompts.Workload(),
    model_tokens=300,
)
TRIAL = Settings(
    device="cpu",
    dtype=torch.float32,
    shapes=models.DRY_SHAPES,
    # It has every operator of the dense one.
    operator_shapes=models.DRY_SHAPES[1:],
    sizes=DRY,
    workload=prompts.DRY_WORKLOAD,
    model_tokens=5,
    repeats=2,
    with_tests=False,
)
"""The same code, interpreted, with tiny sizes: a check that everything runs."""


@dataclass(frozen=True, slots=True)
class Item:
    name: str
    rows: Callable[[Ceilings], Iterator[Row]]


def plan(settings: Settings) -> list[Item]:
    """An item that fails, or is skipped when the time is over, does not affect the others."""
    items = list[Item]()
    if settings.device != "cpu":
        items.append(Item("compile all kernels", partial(_compiled, settings)))
    for shape in settings.shapes:
        if shape in settings.operator_shapes:
            makes = cases.all_cases(_setup(shape, settings))
            items += _measured(shape, settings, "operator", makes)
            items.append(_layers(shape, settings))
        items.append(_with_weights(shape, settings, "steps"))
    for shape in settings.shapes:
        items.append(_with_weights(shape, settings, "prompts"))
        items.append(_with_weights(shape, settings, "handoff"))
    for shape in settings.shapes:
        if settings.with_flashinfer and is_usable(
            shape, prompts.PAGE_TOKENS, settings.device, settings.dtype
        ):
            makes = flashinfer_cases(_setup(shape, settings))
            items += _measured(shape, settings, "FlashInfer", makes)
            items.append(_with_weights(shape, settings, "prompts by FlashInfer"))
    if settings.with_tests:
        items.append(Item("tests", _tests))
    return items


def _compiled(settings: Settings, _: Ceilings) -> Iterator[Row]:
    num_kernels = 0

    def count(_: int, num_all: int) -> None:
        nonlocal num_kernels
        num_kernels = num_all

    for shape in settings.shapes:
        with compiling(count, ignore_errors=True):
            for make in cases.all_cases(_setup(shape, settings)):
                make().run()
                gc.collect()
        yield {"kind": "compiled", "model": shape.name, "num_kernels": num_kernels}


def _setup(shape: models.Shape, settings: Settings) -> Setup:
    return Setup(shape, settings.sizes, settings.device, settings.dtype)


def _measured(
    shape: models.Shape, settings: Settings, what: str, makes: Iterator[Make]
) -> Iterator[Item]:
    def rows(make: Make, limits: Ceilings) -> Iterator[Row]:
        case = make()
        row = operators.measure(shape.name, case, limits, settings.device, repeats=settings.repeats)
        bar = operator_bar(shape.name, case.operator, case.size)
        share = row.floor_s / row.seconds if row.seconds else 0.0
        yield {
            "kind": "operator",
            **asdict(row),
            "is_right": row.is_right,
            "share": share,
            "bar": bar and str(bar),
            "is_met": bool(row.seconds and bar.is_met(row.seconds, share)) if bar else None,
        }

    for number, make in enumerate(makes, 1):
        yield Item(f"{what} {number} of {shape.name}", partial(rows, make))


def _layers(shape: models.Shape, settings: Settings) -> Item:
    def rows(_: Ceilings) -> Iterator[Row]:
        for row in layers.check(shape, settings.model_tokens, settings.device, settings.dtype):
            yield {"kind": "model", **asdict(row), "is_right": row.is_right}

    return Item(f"layers of {shape.name}", rows)


def _with_weights(shape: models.Shape, settings: Settings, what: str) -> Item:
    device, workload = settings.device, settings.workload

    def rows(limits: Ceilings) -> Iterator[Row]:
        weights = models.random_weights(shape.config(), dtype=settings.dtype, device=device)
        if what == "handoff":
            for handed in handoff.measure(shape, weights, workload, device):
                yield {
                    "kind": "handoff",
                    **asdict(handed),
                    "hidden_share": handed.hidden_share,
                    "is_right": handed.is_exact,
                }
            return
        measures: dict[str, Callable[..., Iterator[prompts.PassRow]]] = {
            "steps": steps.measure,
            "prompts": prompts.prefill,
            "prompts by FlashInfer": partial(prompts.prefill, by_flashinfer=True),
        }
        for row in measures[what](shape, weights, workload, limits, device):
            bar = STEPS.get((shape.name, row.kind, row.num_tokens))
            yield {
                **asdict(row),
                "kind": "pass",
                "what": row.kind,
                "share": row.share,
                "bar": bar and str(bar),
                "is_met": bar.is_met(row.seconds, row.share) if bar else None,
            }

    return Item(f"{what} of {shape.name}", rows)


def _tests(_: Ceilings) -> Iterator[Row]:
    yield {"kind": "tests", "result": _test_results()}


def _test_results() -> str:
    """Runs the tests that carry the marker gpu. Returns pytest's last line, after the end of its
    output if a test failed, or what is not installed.
    """
    if lacking := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        return f"not run: {', '.join(lacking)} not installed"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu and not slow", *_TESTS],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    last = re.sub(r"^=+ | =+$", "", done.stdout.strip().splitlines()[-1])
    return last if done.returncode == 0 else f"{done.stdout[-_OUTPUT_CHARS:]}\n{last}"


def release(device: str) -> None:
    """The largest model and its caches do not fit next to another."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
