"""The draft vocabulary changes no answer, and a grammar's tokens can always be drafted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segue.api.types import Sampling
from segue.engine.config import EngineConfig
from segue.engine.runner import ModelRunner
from segue.engine.sampler import SamplerRow, sample_ids
from segue.engine.served_model import ServedModel
from tests.checkpoints import VOCAB_SIZE
from tests.engine.drafting import DraftingSequence, draft, verify

COUNT = 60
SAMPLED = Sampling(temperature=0.9, seed=4, top_k=30, top_p=0.9)


@pytest.fixture(scope="module")
def runner(mtp_dense: Path) -> ModelRunner:
    served = ServedModel.of(mtp_dense, EngineConfig(draft_vocabulary=COUNT))
    return ModelRunner.load(served, num_pages=8, num_slots=8)


def prefilled(runner: ModelRunner, first_page: int, params: Sampling) -> DraftingSequence:
    pages, slots = range(first_page, first_page + 4), range(first_page, first_page + 4)
    sequence = DraftingSequence(runner, pages, slots, list(range(25)), params)
    sequence.prefill()
    return sequence


@pytest.mark.parametrize("params", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_drafts_are_frequent_tokens_and_answers_are_those_without_drafts(
    runner: ModelRunner, params: Sampling
) -> None:
    plain = prefilled(runner, 0, params)
    while plain.num_answered < 24:
        verify(runner, [plain], [[]])
    drafting = prefilled(runner, 4, params)

    drafted: set[int] = set()
    while drafting.num_answered < 20:
        (drafts,) = draft(runner, [drafting], [2])
        verify(runner, [drafting], [drafts])
        drafted.update(drafts)

    assert drafting.tokens == plain.tokens[: len(drafting.tokens)]
    assert max(drafted) < COUNT <= max(plain.tokens)


@pytest.mark.parametrize("params", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_a_draft_is_allowed_though_no_frequent_token_is(
    runner: ModelRunner, params: Sampling
) -> None:
    sequence = prefilled(runner, 0, params)
    mask = np.zeros(-(-VOCAB_SIZE // 32), dtype=np.int32)
    # The tokens 224 and 231.
    mask[7] = 1 | 1 << 7
    logits = runner.drafter([sequence.draft_start()]).step([sequence.tokens[-1]])

    (drafted,) = sample_ids(logits, [SamplerRow(sequence.sampler, 26, mask=mask)])

    assert drafted in (224, 231)
