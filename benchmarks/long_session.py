"""`python -m benchmarks.long_session`: the cost of a turn late in a session, without its model.

Sessions whose first prompt has 500 to 32,000 tokens, and then some turns each, through a real
router, a real prefill and a real decode worker, in one process and in virtual time
(`tests/virtual`), with a runner that computes nothing. This counts processor time of everything
around the model: names of pages, matching, placing, wire messages, accounts of memory, handoffs and
steps. A page has 4 tokens here, so 32,000 tokens have the pages of 128,000 in a served
model. Prints a row per session, and with `--profile` the last one's functions.
"""

from __future__ import annotations

import asyncio
import cProfile
import dataclasses
import pstats
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Annotated, Any
from unittest import mock

import torch
import typer
from torch import Tensor

import tests.virtual.cluster
import tests.virtual.worker
from benchmarks.harness.output import show, show_json, table
from benchmarks.harness.samples import median
from prefill_worker.config import PrefillConfig
from segue.api.types import SessionId, StopConditions, TokenInput, TurnId, TurnRequest
from segue.engine.batch import DecodeChunk, PrefillChunk
from segue.engine.packing import pack
from tests.virtual.clock import run
from tests.virtual.cluster import Cluster, running_cluster
from tests.workers.fake_runner import LAYOUT, VOCAB_SIZE, FakeRunner

_STARTS = (500, 2_000, 8_000, 32_000)
_TURNS = 12
_NEW_TOKENS, _ANSWER_TOKENS = 56, 8


class IdleRunner(FakeRunner):
    """Packs its batches and computes nothing."""

    config = SimpleNamespace(vocab_size=VOCAB_SIZE, max_position_embeddings=1 << 20)

    def forward(
        self,
        chunks: Sequence[PrefillChunk | DecodeChunk],
        *,
        on_layer: Callable[[int], None] = lambda layer: None,
        **_: Any,
    ) -> Tensor:
        batch = pack(chunks, page_tokens=LAYOUT.page_tokens, device="cpu")
        for layer in range(2):
            on_layer(layer)
        return torch.zeros(len(batch.logit_rows_R), VOCAB_SIZE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    context_tokens: int
    """At the first of the turns."""
    pages: int
    cpu_ms: float
    """Median of the turns: router and both workers."""


async def measure(start: int, profile: cProfile.Profile | None) -> Row:
    prompt, seconds = tuple(1 + i * 7 % 250 for i in range(start)), list[float]()
    async with running_cluster(0, num_prefill=1, num_decode=1) as cluster:
        prompt += await _answer(cluster, _request(0, prompt))
        for number in range(1, _TURNS + 1):
            prompt += tuple(1 + (number * 31 + i) % 250 for i in range(_NEW_TOKENS))
            request = _request(number, prompt)
            # Heartbeats and audits do not belong to a turn: they run between turns.
            await asyncio.sleep(0.6)
            if profile:
                profile.enable()
            started_at = time.process_time()
            prompt += await _answer(cluster, request)
            seconds.append(time.process_time() - started_at)
            if profile:
                profile.disable()
    return Row(
        context_tokens=start, pages=start // LAYOUT.page_tokens, cpu_ms=median(seconds[2:]) * 1e3
    )


def _request(number: int, prompt: tuple[int, ...]) -> TurnRequest:
    return TurnRequest(
        session_id=SessionId("long"),
        turn_id=TurnId(f"turn-{number}"),
        input=TokenInput(prompt),
        stop=StopConditions(max_tokens=_ANSWER_TOKENS, ignore_eos=True),
    )


async def _answer(cluster: Cluster, request: TurnRequest) -> tuple[int, ...]:
    tokens: tuple[int, ...] = ()
    async for events in cluster.router.generate(request, deadline_s=600.0):
        for event in events:
            tokens += tuple(getattr(event, "token_ids", ()))
    return tokens


def row_of(start: int, profile: cProfile.Profile | None = None) -> Row:
    num_tokens = start + (_TURNS + 1) * (_NEW_TOKENS + _ANSWER_TOKENS)
    with (
        mock.patch.object(tests.virtual.worker, "FakeRunner", IdleRunner),
        mock.patch.object(tests.virtual.cluster, "FakeRunner", IdleRunner),
        mock.patch.object(tests.virtual.worker, "NUM_HOST_PAGES", 0),
        mock.patch.object(tests.virtual.worker, "NUM_HOST_SLOTS", 0),
        mock.patch.object(tests.virtual.worker, "PrefillConfig", return_value=PrefillConfig()),
        mock.patch.object(tests.virtual.worker, "NUM_PAGES", num_tokens // LAYOUT.page_tokens + 64),
    ):
        return run(measure(start, profile))


def main(
    profile: Annotated[bool, typer.Option(help="Show the last session's functions.")] = False,
) -> None:
    """Processor time of a turn after contexts of growing length."""
    profiler = cProfile.Profile() if profile else None
    rows = [row_of(start, profiler if start == _STARTS[-1] else None) for start in _STARTS]
    shown = table("A turn of one session, without its model", "context | pages | CPU, ms")
    for row in rows:
        shown.add_row(f"{row.context_tokens:,}", f"{row.pages:,}", f"{row.cpu_ms:.2f}")
    show([shown], width=100)
    if profiler:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
    show_json([dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    typer.run(main)
