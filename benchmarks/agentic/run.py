"""One run: for each mode a fresh cluster on the same checkpoint, asked the same."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.agentic.modes import Mode, config_of
from benchmarks.agentic.samples import TurnSample
from benchmarks.agentic.sessions import run_sessions, warm_up
from benchmarks.agentic.workload import Workload
from segue.cache.layout import CacheLayout
from segue.client import Client
from segue.launch.cluster import running_cluster
from segue.launch.config import Config
from segue.model.cache_layout import cache_layout
from segue.model.config import ModelConfig, model_id

Report = Callable[[str], None]
Samples = dict[Mode, list[TurnSample]]


def layout_of(folder: Path, config: Config) -> CacheLayout:
    model, engine = ModelConfig.from_folder(folder), config.engine
    return cache_layout(
        model,
        model_id=model_id(folder),
        page_tokens=engine.page_tokens,
        kv_dtype=model.dtype if engine.dtype == "auto" else engine.dtype,
    )


def run_modes(
    modes: Sequence[Mode], config: Config, workload: Workload, *, vocab_size: int, report: Report
) -> Samples:
    # Ray starts workers at niceness 15: with other work on the machine they would starve.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  (Ray's own spelling)
    samples: Samples = {}
    for mode in modes:

        def tell(stage: str, mode: Mode = mode) -> None:
            report(f"{mode}: {stage}")

        with running_cluster(config_of(mode, config), tell) as cluster:
            tell("warming up")
            samples[mode] = asyncio.run(
                _ask(cluster.address, workload, vocab_size=vocab_size, report=tell)
            )
    return samples


async def _ask(
    address: str, workload: Workload, *, vocab_size: int, report: Report
) -> list[TurnSample]:
    # Another seed gives other tokens, and so nothing to find in a cache.
    practice = replace(workload, sessions=1, later_turns=(4, 4), seed=workload.seed + 1)
    num_tokens = workload.answer_tokens
    async with Client(address) as client:
        await warm_up(client, practice.scripts(vocab_size=vocab_size), answer_tokens=num_tokens)
        report(f"{workload.sessions} sessions")
        scripts = workload.scripts(vocab_size=vocab_size)
        return await run_sessions(client, scripts, answer_tokens=num_tokens, report=report)
