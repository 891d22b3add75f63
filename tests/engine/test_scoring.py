"""Log-probabilities of known tokens: transformers', however the prompt is cut and batched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from segue.engine.batch import Chunk
from segue.engine.runner import ModelRunner
from segue.engine.scoring import TokenScores
from segue.model import qwen3_5
from tests.checkpoints import VOCAB_SIZE
from tests.engine.sequence import RunningSequence
from tests.runners import new_runner

MAX_DIFFERENCE = 1e-4
PROMPT = torch.randint(1, VOCAB_SIZE, (150,), generator=torch.Generator().manual_seed(7)).tolist()


@torch.inference_mode()
def oracle_logprobs(folder: Path, prompt: Sequence[int]) -> Tensor:
    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logits: Tensor = oracle(torch.tensor([list(prompt)])).logits[0]
    return logits.float().log_softmax(-1)


@pytest.fixture(scope="module")
def oracles() -> dict[Path, Tensor]:
    return {}


@pytest.fixture(params=["tiny_dense", "tiny_moe", "mtp_dense", "mtp_moe"])
def folder(request: pytest.FixtureRequest, oracles: dict[Path, Tensor]) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    if folder not in oracles:
        oracles[folder] = oracle_logprobs(folder, PROMPT)
    return folder


@pytest.fixture
def runner(folder: Path) -> ModelRunner:
    return new_runner(folder, page_tokens=16, num_pages=40, num_slots=6)


def forward(runner: ModelRunner, chunks: Sequence[Chunk]) -> dict[int, TokenScores]:
    scores: dict[int, TokenScores] = {}
    runner.forward(chunks, on_scores=scores.__setitem__)
    return scores


def scored(
    runner: ModelRunner, sequence: RunningSequence, sizes: Sequence[int], *, num_top: int
) -> TokenScores:
    """Of all of PROMPT, in passes over these numbers of tokens, then of the rest."""
    whole, at = TokenScores(), 0
    for size in (*sizes, len(PROMPT) - sum(sizes)):
        known = PROMPT[at + 1 : at + size + 1]
        chunk = replace(sequence.take(PROMPT[at : at + size]), scored_ids=known, num_top=num_top)
        whole.extend(forward(runner, [chunk])[0])
        at += size
    return whole


def assert_oracles(scores: TokenScores, oracle_TV: Tensor, num_top: int) -> None:
    expected_SV = oracle_TV[: len(PROMPT) - 1]
    chosen_S1 = expected_SV.gather(1, torch.tensor(PROMPT[1:])[:, None])
    top_ids = torch.tensor(list(scores.top_ids)).reshape(-1, num_top)
    top_logprobs = torch.tensor(list(scores.top_logprobs)).reshape(-1, num_top)

    logprobs = torch.tensor(list(scores.logprobs))
    assert (logprobs - chosen_S1[:, 0]).abs().max() < MAX_DIFFERENCE
    # Tokens that are closer than the two models are to each other may change places.
    lowest = (expected_SV > chosen_S1 + MAX_DIFFERENCE).sum(1) + 1
    highest = (expected_SV > chosen_S1 - MAX_DIFFERENCE).sum(1)
    ranks = torch.tensor(list(scores.ranks))
    assert ((lowest <= ranks) & (ranks <= highest)).all()
    best = expected_SV.topk(num_top).values
    assert (top_logprobs - best).abs().max() < MAX_DIFFERENCE
    assert (expected_SV.gather(1, top_ids) - best).abs().max() < MAX_DIFFERENCE


@pytest.mark.parametrize(
    "sizes", [(), (16,) * 9, (1, 1, 30, 1, 31, 64), (7, 9, 15, 1, 16, 17)], ids=str
)
def test_a_prompt_has_the_oracles_log_probabilities_however_it_is_cut(
    folder: Path, runner: ModelRunner, oracles: dict[Path, Tensor], sizes: tuple[int, ...]
) -> None:
    sequence = RunningSequence(runner, pages=range(39, 19, -1), slot=3)

    assert_oracles(scored(runner, sequence, sizes, num_top=4), oracles[folder], 4)


def test_a_batch_has_the_scores_of_each_of_its_prompts(
    folder: Path, runner: ModelRunner, oracles: dict[Path, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among others that want none, with one token or many, and in blocks of seven rows."""
    monkeypatch.setattr(qwen3_5, "_SCORED_BYTES", 7 * 4 * VOCAB_SIZE)
    sequences = [RunningSequence(runner, pages=range(8 * i, 8 * i + 8), slot=i) for i in range(5)]
    lengths = [20, 1, 33, 20, 16]
    first = [s.take(PROMPT[:n]) for s, n in zip(sequences, lengths, strict=True)]
    runner.forward(first)
    takes = [40, 1, 50, 1, 23]
    wanted: list[int | None] = [2, None, None, 0, 3]
    chunks: list[Chunk] = []
    for sequence, length, take, num_top in zip(sequences, lengths, takes, wanted, strict=True):
        end = length + take
        known = [] if num_top is None else PROMPT[length + 1 : end + 1]
        chunk = sequence.take(PROMPT[length:end])
        chunks.append(replace(chunk, scored_ids=known, num_top=num_top or 0))

    scores = forward(runner, chunks)

    assert sorted(scores) == [0, 3, 4]
    for index, one in scores.items():
        at, num, num_top = lengths[index], takes[index], wanted[index] or 0
        expected = oracles[folder][at : at + num].gather(
            1, torch.tensor(PROMPT[at + 1 : at + num + 1])[:, None]
        )
        assert (torch.tensor(list(one.logprobs)) - expected[:, 0]).abs().max() < MAX_DIFFERENCE
        assert (len(one.ranks), len(one.top_ids)) == (num, num * num_top)


def test_a_scored_pass_has_the_same_logits_and_states(runner: ModelRunner) -> None:
    plain, scoring = (RunningSequence(runner, range(10 * i, 10 * i + 10), i) for i in range(2))
    expected = runner.forward([plain.take(PROMPT)])

    logits = runner.forward(
        [replace(scoring.take(PROMPT), scored_ids=PROMPT[1:])], on_scores=lambda *_: None
    )

    torch.testing.assert_close(logits, expected)
    for field, tensor in runner.tensors.fields():
        if field.unit == "slot":
            torch.testing.assert_close(tensor[1], tensor[0])


def test_logits_of_scored_rows_are_computed_some_rows_at_a_time() -> None:
    """A quarter of a gigabyte of scratch, with the vocabulary of Qwen3.5."""
    vocab_size = 248_320
    rows = qwen3_5._SCORED_BYTES // (4 * vocab_size)

    # float32 logits, the head's output before, log-probabilities, and a comparison.
    assert rows >= 1
    assert rows * vocab_size * (4 + 4 + 4 + 1) < 256 << 20
