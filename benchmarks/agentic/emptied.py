"""A prefill worker whose cache is emptied between turns: does it pull the prefix or compute it?

Router and workers are plain objects in this process, so that the cache is accessible. Each prefix
is tried warm, emptied with the pull (the estimate decides), and emptied without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.agentic.modes import without_local
from benchmarks.harness.output import Report
from benchmarks.harness.samples import Answered, median
from benchmarks.serving.cluster import answer
from decode_worker.__main__ import running as running_decode
from prefill_worker.__main__ import running as running_prefill
from prefill_worker.pull import PullEstimate, estimate_pull
from prefill_worker.worker import PrefillWorker
from router.__main__ import running as running_router
from segue.engine.served_model import ServedModel
from segue.launch.config import Config
from segue.model.config import ModelConfig
from segue.sdk.client import Client
from segue.worker.process.options import WorkerOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The requests to one model."""

    prefix_tokens: tuple[int, ...]
    new_tokens: int
    answer_tokens: int
    repeats: int


SHORT = Trial(prefix_tokens=(32,), new_tokens=16, answer_tokens=4, repeats=1)
SMALL = Trial(prefix_tokens=(32, 128, 1024), new_tokens=32, answer_tokens=12, repeats=7)
LONG = Trial(prefix_tokens=(64, 512, 2000), new_tokens=32, answer_tokens=12, repeats=5)
# Computing is expensive and bytes are few: a pull should cost next to nothing.
WIDE = Trial(prefix_tokens=(16, 512), new_tokens=32, answer_tokens=12, repeats=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptiedRow:
    """Medians over the repeats of the time to first token of a turn after the prefix."""

    model: str
    prefix_tokens: int
    warm_s: float
    emptied_s: float
    """With a pull, if the estimate chose it."""
    recomputed_s: float
    """Without it."""
    num_pulled: int
    num_turns: int
    pulled_bytes: float
    estimated_move_s: float
    estimated_compute_s: float

    @property
    def over_warm(self) -> float:
        return self.emptied_s / self.warm_s

    @property
    def expected_over_warm(self) -> float:
        """The ratio that the estimate predicted at that time."""
        cheaper = min(self.estimated_move_s, self.estimated_compute_s)
        return 1 + cheaper / self.warm_s


@dataclass(slots=True)
class _Seen:
    warm: list[Answered]
    emptied: list[Answered]
    estimates: list[PullEstimate]


@dataclass(frozen=True, slots=True)
class InProcess:
    """A cluster with one worker of each role, as accessible objects."""

    client: Client
    worker: PrefillWorker

    def forget_prefixes(self) -> None:
        """Evicts everything that no turn of the prefill worker holds."""
        cache = self.worker._memory.cache
        cache.make_room(cache.num_obtainable_pages, cache.num_obtainable_slots)


async def try_emptied(
    folder: Path, config: Config, trial: Trial, *, name: str, report: Report
) -> tuple[EmptiedRow, ...]:
    seen = {}
    for pull in (True, False):
        # Decode would compute the rest itself and never call prefill.
        of_mode = without_local(replace(config, prefill=replace(config.prefill, pull=pull)))
        report(f"{name}, emptied, {'with' if pull else 'without'} the pull")
        seen[pull] = await _ask(folder, of_mode, trial)
        # A closed cluster leaves gigabytes in reference cycles.
        gc.collect()
    return tuple(
        _row(name, length, seen[True][length], seen[False][length])
        for length in trial.prefix_tokens
    )


@contextlib.asynccontextmanager
async def in_process(folder: Path, config: Config) -> AsyncIterator[InProcess]:
    async with contextlib.AsyncExitStack() as stack:
        router = await stack.enter_async_context(running_router(config.router, str(folder)))

        def options(worker_id: str) -> WorkerOptions:
            return WorkerOptions(
                worker_id=worker_id, model=str(folder), router_address=router.address
            )

        prefill = await stack.enter_async_context(
            running_prefill(
                options("prefill-0"),
                engine=config.engine,
                prefill=config.prefill,
                transfer=config.transfer,
            )
        )
        await stack.enter_async_context(
            running_decode(
                options("decode-0"),
                engine=config.engine,
                decode=config.decode,
                transfer=config.transfer,
            )
        )
        client = await stack.enter_async_context(Client(router.address))
        while (await client.status()).missing(2):
            await asyncio.sleep(0.1)
        assert isinstance(prefill.worker, PrefillWorker)
        yield InProcess(client, prefill.worker)


async def _ask(folder: Path, config: Config, trial: Trial) -> dict[int, _Seen]:
    async with in_process(folder, config) as bench:
        return await _ask_of(bench, folder, config, trial)


async def _ask_of(bench: InProcess, folder: Path, config: Config, trial: Trial) -> dict[int, _Seen]:
    layout = ServedModel.of(folder, config.engine).layout
    draw = random.Random(0)
    vocab_size = ModelConfig.from_folder(folder).vocab_size
    names = (f"emptied-{number}" for number in itertools.count())

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(vocab_size) for _ in range(count))

    async def one(length: int, seen: _Seen) -> None:
        name, history = next(names), tokens(length)
        for kind in ("first", "warm", "emptied"):
            if kind == "emptied":
                # As if the worker had just started, except that it knows its speed.
                bench.forget_prefixes()
                # Decode has no state after its last token, since nothing was computed from that
                # token.
                num_computed = len(history) - trial.new_tokens - 1
                held = num_computed // layout.page_tokens * layout.page_tokens
                seen.estimates.append(
                    estimate_pull(
                        layout,
                        bench.worker.rates,
                        held_tokens=held,
                        matched_tokens=0,
                        resume_tokens=0,
                    )
                )
            answered = await answer(bench.client, history, trial.answer_tokens, session_id=name)
            if kind != "first":
                (seen.warm if kind == "warm" else seen.emptied).append(answered)
            history = (*history, *answered.token_ids, *tokens(trial.new_tokens))

    practice = _Seen([], [], [])
    for length in trial.prefix_tokens:
        # Warms up connections, and the running means behind the estimate.
        await one(length, practice)
    seen_by_length = {length: _Seen([], [], []) for length in trial.prefix_tokens}
    for _ in range(trial.repeats):
        for length, seen in seen_by_length.items():
            await one(length, seen)
    return seen_by_length


def _row(name: str, length: int, pulled: _Seen, recomputed: _Seen) -> EmptiedRow:
    usages = [a.end.usage for a in pulled.emptied if a.end is not None]
    return EmptiedRow(
        model=name,
        prefix_tokens=length,
        warm_s=_first_token_s([*pulled.warm, *recomputed.warm]),
        emptied_s=_first_token_s(pulled.emptied),
        recomputed_s=_first_token_s(recomputed.emptied),
        num_pulled=sum(usage.pulled_tokens > 0 for usage in usages),
        num_turns=len(usages),
        pulled_bytes=median([usage.pulled_bytes for usage in usages]),
        estimated_move_s=median([e.move_s for e in pulled.estimates]),
        estimated_compute_s=median([e.compute_s for e in pulled.estimates]),
    )


def _first_token_s(answers: Sequence[Answered]) -> float:
    return median([a.first_token_s for a in answers])
