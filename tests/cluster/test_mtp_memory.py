"""The K and V of an MTP layer are cached, shipped and correct like the rest of a session's
memory.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.harness.checkpoint import TEXT_FILES
from segue.api.prompt import Prompt
from segue.api.types import SessionId, StopConditions, TokenInput
from segue.demo import checkpoint_dir
from segue.engine.batch import DraftStart
from segue.engine.config import EngineConfig
from segue.launch.config import Config
from segue.worker.load import LoadedModel, load_runner
from tests.cluster.conftest import ENGINE, local_cluster
from tests.cluster.waiting import wait_until_idle
from tests.engine.mtp_oracle import MtpOracle


@pytest.mark.parametrize("folder", ["mtp_dense", "mtp_moe"])
async def test_drafts_from_a_sessions_memory_on_decode_equal_the_oracles(
    folder: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two turns: pages of both prompts were shipped, those of the answers were written on
    decode.
    """
    path: Path = shutil.copytree(request.getfixturevalue(folder), tmp_path / "model")
    for name in TEXT_FILES:
        shutil.copy(checkpoint_dir() / name, path / name)
    oracle, session = MtpOracle(path), SessionId("s")
    history: list[int] = []
    loaded: list[LoadedModel] = []

    def load(model: str, engine: EngineConfig, **options: Any) -> LoadedModel:
        loaded.append(load_runner(model, engine, **options))
        return loaded[-1]

    # The decode worker's runner is loaded last.
    monkeypatch.setattr("kv_transfer.ranks.starting.load_runner", load)
    async with local_cluster(path, Config(engine=ENGINE)) as cluster:
        for num_tokens in (100, 70):
            history += [int(t) for t in torch.randint(1, 300, (num_tokens,)).tolist()]
            answer = await cluster.client.generate(
                TokenInput(tuple(history)),
                session_id=session,
                stop=StopConditions(max_tokens=30, ignore_eos=True),
            )
            expected = oracle.greedy(history, 30)
            history += answer.token_ids
            assert list(answer.token_ids) == expected
        await wait_until_idle(cluster.client)
        worker = cluster.decode[0]
        match = worker._memory.cache.match(Prompt(history))
        assert match.checkpoint is not None
        position = match.checkpoint.num_tokens
        own_page = loaded[-1].sizes.num_pages - 1
        drafter = loaded[-1].runner.drafter(
            [
                DraftStart(
                    position=position,
                    page_ids=[*match.pages[: position // ENGINE.page_tokens], own_page],
                    slot=match.checkpoint.slot,
                )
            ]
        )
        logits = drafter.step([history[position]])[0]

    assert position >= 192
    expected_logits = oracle.draft_logits(history[: position + 1], [])[0]
    assert (logits - expected_logits).abs().max() < 1e-4
