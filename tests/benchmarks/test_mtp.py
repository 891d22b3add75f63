from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.mtp.coupling import measure_coupling
from benchmarks.mtp.drive import Drive, Prompt, TimedRunner
from benchmarks.mtp.measure import break_even
from benchmarks.mtp.models import PAGE_TOKENS, Text
from decode_worker.config import DecodeConfig
from segue.engine.config import EngineConfig
from segue.engine.served_model import ServedModel
from tests.benchmarks.running import result_of
from tests.checkpoints import VOCAB_SIZE


def tokens(seed: int, count: int) -> tuple[int, ...]:
    draw = random.Random(seed)
    return tuple(draw.randrange(1, VOCAB_SIZE) for _ in range(count))


@pytest.fixture(scope="module")
def runner(mtp_dense: Path) -> TimedRunner:
    return TimedRunner.load(
        ServedModel.of(mtp_dense, EngineConfig(page_tokens=PAGE_TOKENS)), num_pages=16, num_slots=16
    )


def test_a_batch_stays_full_and_only_its_steps_count(runner: TimedRunner) -> None:
    lengths = (5, 9, 4, 7)
    prompts = [
        Prompt(token_ids=tokens(seed, 20), max_tokens=length) for seed, length in enumerate(lengths)
    ]

    alone = Drive(runner, DecodeConfig(max_drafts=0)).run(prompts, 1)
    pairs = Drive(runner, DecodeConfig(max_drafts=2, adaptive_drafts=False)).run(prompts, 2)

    assert [len(answer) for answer in alone.answers] == list(lengths)
    assert pairs.answers == alone.answers
    # A prompt's step gives the first token of each answer, and is not counted.
    assert sum(step.num_tokens for step in alone.steps) == sum(lengths) - len(lengths)
    assert all(2 <= step.num_tokens <= 6 for step in pairs.steps)
    assert all(step.verify_s > 0 for step in pairs.steps)
    assert alone.tokens_per_s > 0


def test_no_rule_accepts_more_than_rejection_sampling(runner: TimedRunner) -> None:
    texts = [Text(prompt=tokens(seed, 20), answer=tokens(seed + 10, 12)) for seed in range(3)]

    flat, sharp = measure_coupling(runner, texts, temperatures=(5.0, 0.2), num_seeds=20)

    assert flat.num_positions == sharp.num_positions == 3 * 11
    assert 0 <= sharp.shared_noise_share < sharp.rejection_share + 0.05
    assert 0.3 < flat.shared_noise_share < flat.rejection_share < 1
    assert flat.rejection_share > sharp.rejection_share


@pytest.mark.parametrize(
    ("num_drafts", "cost", "expected"),
    [(1, 1.5, 0.5), (2, 1.75, 0.5), (4, 5.0, 1.0), (3, 1.0, 0.0)],
)
def test_drafts_break_even_where_their_tokens_are_worth_their_cost(
    num_drafts: int, cost: float, expected: float
) -> None:
    assert break_even(num_drafts, cost) == pytest.approx(expected, abs=1e-4)
    assert break_even(num_drafts, 5.5) > 1


@pytest.mark.slow
def test_the_last_line_is_one_json_object_with_every_number() -> None:
    result = result_of("mtp", "--quick")

    assert [row["model"] for row in result["batches"]] == ["demo", "random"]
    trained, by_chance = result["batches"]
    assert trained["equal_answers"] == trained["num_answers"] > 0
    assert by_chance["simulate_acceptance"] == 0.8
    for row in result["batches"]:
        modes = {mode["mode"]: mode for mode in row["modes"]}
        assert list(modes) == ["0", "1", "2", "3", "4", "7", "adaptive"]
        assert modes["0"]["speedup"] == 1.0
        assert modes["4"]["tokens_per_step"] > 1.0
        assert len(modes["4"]["accepted"]) == 4
        assert modes["0"]["break_even"] is None
        assert 0 < modes["4"]["break_even"] <= 2
    assert [row["temperature"] for row in result["coupling"]] == [1.0, 0.7]
