"""Simulated acceptance: what it requires, and that the engine follows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.mtp.drive import Drive, Prompt, TimedRunner
from decode_worker.__main__ import running
from decode_worker.config import DecodeConfig
from kv_transfer.config import TransferConfig
from segue.api.errors import InvalidConfig
from segue.engine.config import EngineConfig
from segue.engine.served_model import ServedModel
from segue.worker.process.options import WorkerOptions
from tests.checkpoints import VOCAB_SIZE

PROMPT = Prompt(token_ids=tuple(range(1, 40)), max_tokens=30)


def test_it_requires_drafts() -> None:
    with pytest.raises(ValueError, match="simulate_acceptance needs drafts"):
        DecodeConfig(simulate_acceptance=0.5, max_drafts=0)


async def test_a_worker_without_an_mtp_layer_refuses_it(tiny_dense: Path) -> None:
    worker = running(
        WorkerOptions(worker_id="decode-0", model=str(tiny_dense), router_address="127.0.0.1:1"),
        engine=EngineConfig(cache_bytes=1 << 24, max_running=2, num_threads=1),
        decode=DecodeConfig(simulate_acceptance=0.5),
        transfer=TransferConfig(),
    )

    with pytest.raises(InvalidConfig, match="needs a checkpoint with an MTP layer"):
        async with worker:
            pass


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0.0), (1.0, 1.0)])
def test_the_engine_accepts_the_configured_share_of_drafts(
    mtp_dense: Path, rate: float, expected: float
) -> None:
    runner = TimedRunner.load(
        ServedModel.of(mtp_dense, EngineConfig(page_tokens=16)), num_pages=8, num_slots=8
    )
    config = DecodeConfig(max_drafts=3, adaptive_drafts=False)
    truth = Drive(runner, config).run([PROMPT], 1)
    drive = Drive(runner, replace(config, simulate_acceptance=rate))

    drafted = drive.run([PROMPT], 1)

    assert [len(answer) for answer in drafted.answers] == [PROMPT.max_tokens]
    assert drive.accepted_shares()[0] == expected
    # With random weights drafts are hardly ever right.
    assert (drafted.answers == truth.answers) == (rate == 0.0)
    assert all(0 <= token_id < VOCAB_SIZE for token_id in drafted.answers[0])
    assert Drive(runner, replace(config, simulate_acceptance=rate)).run([PROMPT], 1).answers == (
        drafted.answers
    )
