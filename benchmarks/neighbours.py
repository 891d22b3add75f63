"""`python -m benchmarks.neighbours`: decode steps while a prompt is computed on the same cores.

Two processes, as of a decode and a prefill worker, each with a runner on a thread of its own with
the niceness, cores and number of threads of a setting. One decodes step by step, the other computes
prompts of 2,048 tokens in chunks of 512. Each round goes through all settings: prompts alone, steps
alone, then both for some seconds. A prompt's speed is counted in layers, so it may be cut
off. Prints a table, and as the last line of stdout one JSON object.

*Together* adds each side's speed beside the other to its speed alone: below 1, two busy workers
hinder each other more than they would by taking turns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.harness.environment import this_environment
from benchmarks.harness.output import show, show_json, table
from benchmarks.harness.samples import median, percentile
from benchmarks.harness.turns import decode_chunk, prompt_chunks
from segue.api.types import Role
from segue.demo import checkpoint_dir
from segue.engine.config import EngineConfig
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel
from segue.launch.cluster import SPIN_COUNT
from segue.worker.engine_thread import give_way

_PROMPT_TOKENS, _CHUNK_TOKENS, _DECODE_CONTEXT = 2048, 512, 512
_ALONE_S, _BESIDE_S = 4.0, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    threads: int
    niceness: int = 0
    """The niceness of the prompt's thread."""
    is_pinned: bool = False
    """The first half of the cores decodes, the second half computes prompts."""

    @property
    def name(self) -> str:
        where = "own cores" if self.is_pinned else "all cores"
        return f"{self.threads} each, {where}, niceness {self.niceness}"

    def cores(self, *, is_prefill: bool) -> set[int]:
        every = sorted(os.sched_getaffinity(0))
        if not self.is_pinned or len(every) < 2:
            return set(every)
        half = len(every) // 2
        return set(every[half:] if is_prefill else every[:half])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One round of one setting."""

    prompt_alone: float
    """Tokens a second."""
    prompt_beside: float
    steps_alone_s: list[float]
    steps_beside_s: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    setting: str
    step_alone_s: float
    step_beside_p50_s: float
    step_beside_p99_s: float
    prompt_alone: float
    prompt_beside: float
    together: float


class _Stopped(Exception):
    """Raised between two layers."""


class _Side:
    """The process of one worker. It computes until the next message arrives."""

    def __init__(self, connection: Connection, folder: Path, *, is_prefill: bool) -> None:
        served = ServedModel.of(folder, EngineConfig())
        num_pages = served.layout.num_pages_for(_PROMPT_TOKENS)
        self._runner = ModelRunner.load(served, num_pages=num_pages, num_slots=2)
        self._pages = list(range(num_pages))
        self._connection = connection
        self._is_prefill = is_prefill
        self._marks: list[float] = []

    def run(self, setting: Setting) -> None:
        """On a thread of its own, as an engine's: its OpenMP threads inherit what it sets. Sends
        the times at which steps or layers ended, after one that starts the threads."""
        os.sched_setaffinity(0, setting.cores(is_prefill=self._is_prefill))
        if self._is_prefill and setting.niceness:
            give_way(setting.niceness)
        torch.set_num_threads(setting.threads)
        self._step()
        self._marks = [time.monotonic()]
        self._connection.send(None)
        with contextlib.suppress(_Stopped):
            while True:
                if self._is_prefill:
                    self._prompt()
                else:
                    self._step()
                    self._mark()
        self._connection.recv()
        self._connection.send(self._marks)

    def _mark(self) -> None:
        self._marks.append(time.monotonic())
        if self._connection.poll():
            raise _Stopped

    def _step(self) -> None:
        self._runner.forward([decode_chunk(7, _DECODE_CONTEXT, self._pages, slot_out=1)])

    def _prompt(self) -> None:
        prompt = [7] * _PROMPT_TOKENS
        for chunk in prompt_chunks(prompt, self._pages, chunk_tokens=_CHUNK_TOKENS):
            self._runner.forward([chunk], on_layer=lambda _: self._mark())

    @property
    def tokens_per_mark(self) -> float:
        return _CHUNK_TOKENS / self._runner.config.num_layers


def _serve(connection: Connection, folder: Path, role: Role) -> None:
    side = _Side(connection, folder, is_prefill=role is Role.PREFILL)
    connection.send(side.tokens_per_mark)
    while (setting := connection.recv()) is not None:
        thread = threading.Thread(target=side.run, args=(setting,))
        thread.start()
        thread.join()


class _Process:
    def __init__(self, folder: Path, role: Role) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, folder, role), daemon=True)
        self._process.start()
        self.tokens_per_mark: float = self._connection.recv()

    def start(self, setting: Setting) -> None:
        """Returns when its threads run."""
        self._connection.send(setting)
        self._connection.recv()

    def stop(self) -> list[float]:
        """The seconds between the ends of steps, or of layers."""
        self._connection.send(None)
        marks: list[float] = self._connection.recv()
        return [end - start for start, end in pairwise(marks)]

    def end(self) -> None:
        self._connection.send(None)
        self._process.join(10.0)
        self._process.kill()


def settings(cores: int) -> list[Setting]:
    shared = [Setting(threads=cores, niceness=niceness) for niceness in (0, 3, 5, 10, 19)]
    half = max(cores // 2, 1)
    return [*shared, Setting(threads=half), Setting(threads=half, is_pinned=True)]


def measure(folder: Path, asked: Sequence[Setting], rounds: int) -> list[Row]:
    decode, prefill = _Process(folder, Role.DECODE), _Process(folder, Role.PREFILL)
    samples: dict[Setting, list[Sample]] = {setting: [] for setting in asked}
    try:
        for _ in range(rounds):
            for setting in asked:
                samples[setting].append(_sample(decode, prefill, setting))
    finally:
        decode.end()
        prefill.end()
    return [_row(setting, of_setting) for setting, of_setting in samples.items()]


def _sample(decode: _Process, prefill: _Process, setting: Setting) -> Sample:
    prefill.start(setting)
    time.sleep(_ALONE_S)
    layers_alone = prefill.stop()
    decode.start(setting)
    time.sleep(_ALONE_S)
    steps_alone = decode.stop()
    prefill.start(setting)
    decode.start(setting)
    time.sleep(_BESIDE_S)
    # The steps' marks are within the layers', which started first.
    steps_beside, layers_beside = decode.stop(), prefill.stop()
    return Sample(
        prompt_alone=_rate(layers_alone) * prefill.tokens_per_mark,
        prompt_beside=_rate(layers_beside) * prefill.tokens_per_mark,
        steps_alone_s=steps_alone,
        steps_beside_s=steps_beside,
    )


def _rate(seconds: Sequence[float]) -> float:
    return len(seconds) / sum(seconds)


def _row(setting: Setting, samples: Sequence[Sample]) -> Row:
    beside = [s for sample in samples for s in sample.steps_beside_s]
    return Row(
        setting=setting.name,
        step_alone_s=median([s for sample in samples for s in sample.steps_alone_s]),
        step_beside_p50_s=median(beside),
        step_beside_p99_s=percentile(beside, 99),
        prompt_alone=median([sample.prompt_alone for sample in samples]),
        prompt_beside=median([sample.prompt_beside for sample in samples]),
        together=median(
            [
                one.prompt_beside / one.prompt_alone
                + _rate(one.steps_beside_s) / _rate(one.steps_alone_s)
                for one in samples
            ]
        ),
    )


def main(
    model: Annotated[str, typer.Option(help="demo, or the folder of a checkpoint.")] = "demo",
    rounds: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """A decode worker's steps beside a prefill worker's prompt, for ways to share the cores."""
    # Before the processes import torch, and as `segue serve` sets it.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    cores = len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(cores)
    environment = this_environment()
    folder = checkpoint_dir() if model == "demo" else Path(model)
    rows = measure(folder, settings(cores), rounds)
    shown = table(
        f"{model}: decode steps beside a prompt of {_PROMPT_TOKENS:,} tokens, {cores} cores",
        "threads | step alone, ms | beside p50 | p99 | prompt alone, tokens/s | takes | together",
    )
    for row in rows:
        shown.add_row(
            row.setting,
            f"{row.step_alone_s * 1e3:.1f}",
            f"×{row.step_beside_p50_s / row.step_alone_s:.2f}",
            f"×{row.step_beside_p99_s / row.step_alone_s:.2f}",
            f"{row.prompt_alone:,.0f}",
            f"×{row.prompt_alone / row.prompt_beside:.2f}",
            f"×{row.together:.2f}",
        )
    show([shown], width=110)
    show_json(
        {
            "benchmark": "neighbours",
            "model": model,
            "environment": dataclasses.asdict(environment),
            "rows": [dataclasses.asdict(row) for row in rows],
        }
    )


if __name__ == "__main__":
    typer.run(main)
