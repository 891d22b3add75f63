"""Quantised checkpoints through a cluster: tokens as from transformers with plain weights."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.harness.checkpoint import TEXT_FILES
from decode_worker.config import DecodeConfig
from scripts.quantize import LAYOUTS, quantize
from segue.api.types import StopConditions, TokenInput
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel
from segue.kernels.scaled_product import MOST_PLAIN_ROWS
from segue.launch.config import Config
from segue.sdk.client import Client
from tests.cluster.conftest import ENGINE, local_cluster
from tests.cluster.oracle import Oracle
from tests.cluster.serving import SETTINGS, serving
from tests.cluster.waiting import wait_until_idle
from tests.engine.sequence import RunningSequence
from tests.model.dequantized import dequantized_folder
from tests.model.rounded import rounded_folder

PROMPT = tuple(range(5, 75))


async def two_turns(
    client: Client, prompt: tuple[int, ...] = PROMPT
) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Each turn's prompt and answer; the second's prompt continues the first."""
    turns = []
    for _ in range(2):
        answer = await client.generate(
            TokenInput(prompt),
            session_id="session",
            stop=StopConditions(max_tokens=24, ignore_eos=True),
        )
        assert answer.end.usage.shipped_bytes > 0
        turns.append((prompt, answer.token_ids))
        prompt = (*prompt, *answer.token_ids, 7, 8, 9)
    assert answer.end.usage.resident_tokens > 0
    return turns


def quantized(source: Path, demo: Path, folder: Path, layout: str) -> Path:
    quantize(source, folder, layout)
    for name in TEXT_FILES:
        shutil.copy(demo / name, folder / name)
    return folder


def wrong_turns(
    folder: Path, plain: Path, turns: list[tuple[Sequence[int], Sequence[int]]]
) -> list[int]:
    oracle = Oracle(dequantized_folder(folder, plain, torch.float32))
    return [number for number, turn in enumerate(turns) if not oracle.would_say(*turn)]


ALWAYS = [("mtp_moe", "fp8"), ("mtp_moe", "nvfp4"), ("mtp_dense", "mixed")]
MORE = [("mtp_dense", "fp8"), ("mtp_dense", "nvfp4"), ("mtp_moe", "mixed")]


@pytest.mark.parametrize(
    ("source", "layout"),
    [*ALWAYS, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)],
)
async def test_greedy_answers_through_a_handoff(
    source: str, layout: str, request: pytest.FixtureRequest, demo: Path, tmp_path: Path
) -> None:
    folder = quantized(request.getfixturevalue(source), demo, tmp_path / "model", layout)
    config = Config(engine=ENGINE, decode=DecodeConfig(max_drafts=2, adaptive_drafts=False))
    config = replace(config, router=replace(config.router, local_prefill_max_tokens=0))

    async with local_cluster(folder, config) as cluster:
        turns = await two_turns(cluster.client)
        await wait_until_idle(cluster.client)

    assert await asyncio.to_thread(wrong_turns, folder, tmp_path / "plain", turns) == []


@pytest.mark.parametrize("quantization", ["int4", pytest.param("int8", marks=pytest.mark.slow)])
async def test_quantised_at_load(
    quantization: str, mtp_dense: Path, demo: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(mtp_dense, tmp_path / "model")
    for name in TEXT_FILES:
        shutil.copy(demo / name, folder / name)
    config = Config(
        engine=replace(ENGINE, quantization=quantization),
        decode=DecodeConfig(max_drafts=2, adaptive_drafts=False),
    )
    config = replace(config, router=replace(config.router, local_prefill_max_tokens=0))

    async with local_cluster(folder, config) as cluster:
        turns = await two_turns(cluster.client)
        await wait_until_idle(cluster.client)

    oracle = Oracle(rounded_folder(folder, tmp_path / "plain", quantization))
    assert all(oracle.would_say(*turn) for turn in turns)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["fp8", "nvfp4"])
async def test_prompts_with_quantised_inputs(
    layout: str, mtp_moe: Path, demo: Path, tmp_path: Path
) -> None:
    """As from a model alone, which tests/model/test_quantized_activations.py compares with
    transformers. Of the two turns only the first has a prompt of enough rows."""
    folder = quantized(mtp_moe, demo, tmp_path / "model", layout)
    engine = replace(ENGINE, quantize_activations=True)
    config = Config(engine=engine, decode=DecodeConfig(max_drafts=2, adaptive_drafts=False))
    config = replace(config, router=replace(config.router, local_prefill_max_tokens=0))
    prompt = PROMPT * 3
    assert len(prompt) > MOST_PLAIN_ROWS

    async with local_cluster(folder, config) as cluster:
        turns = await two_turns(cluster.client, prompt)
        await wait_until_idle(cluster.client)

    alone = ModelRunner.load(ServedModel.of(folder, engine), num_pages=40, num_slots=4)
    sequence = RunningSequence(alone, pages=range(40), slot=1)
    known = 0
    for said, answer in turns:
        logits = sequence.prefill(said[known:], len(said))
        assert sequence.greedy(logits[-1], len(answer)) == list(answer)
        # The last token of an answer is not computed before it continues.
        known = len(said) + len(answer) - 1
    assert await asyncio.to_thread(wrong_turns, folder, tmp_path / "plain", turns) != []


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_segue_serve(layout: str, demo: Path, tmp_path: Path) -> None:
    """Ray, Mooncake, a process for each worker, and the demo model."""
    folder = quantized(demo, demo, tmp_path / "model", layout)

    async def ask(address: str) -> list[tuple[Sequence[int], Sequence[int]]]:
        async with Client(address) as client:
            return await two_turns(client)

    settings = tmp_path / "shipped.toml"
    settings.write_text(f"{SETTINGS}[router]\nlocal_prefill_max_tokens = 0\n")
    options = ("--prefill", "1", "--decode", "1", "--config", str(settings))
    with serving(tmp_path, str(folder), *options) as cluster:
        turns = asyncio.run(ask(cluster.address()))

    assert wrong_turns(folder, tmp_path / "plain", turns) == []
