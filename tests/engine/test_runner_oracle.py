"""The runner's numbers against transformers: same logits, same greedy tokens, however it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from segue.engine.runner import ModelRunner
from tests.checkpoints import VOCAB_SIZE, Variant
from tests.conftest import MakeCheckpoint
from tests.engine.sequence import RunningSequence
from tests.runners import new_runner

MAX_LOGIT_DIFFERENCE = 1e-4
MAX_BFLOAT16_ERROR = 0.1
"""Root mean square, in standard deviations of the logits."""
NUM_GREEDY_TOKENS = 64

HEAD_LAYOUTS: dict[str, dict[str, object]] = {
    "grouped": {},
    "one key/value head": {"num_key_value_heads": 1},
    "as many key heads as value heads": {"linear_num_key_heads": 4, "num_key_value_heads": 4},
    "one key head": {"linear_num_key_heads": 1, "linear_value_head_dim": 16},
    "tied": {"tie_word_embeddings": True},
}
VARIANTS = [
    pytest.param(
        Variant(is_moe=is_moe, changes=changes), id=f"{'moe' if is_moe else 'dense'} {name}"
    )
    for is_moe in (False, True)
    for name, changes in HEAD_LAYOUTS.items()
]


def load_oracle(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def load_runner(folder: Path, dtype: str = "auto", num_pages: int = 128) -> ModelRunner:
    return new_runner(folder, dtype=dtype, page_tokens=16, num_pages=num_pages, num_slots=8)


def random_prompt(num_tokens: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCAB_SIZE, (num_tokens,), generator=generator).tolist()


@torch.inference_mode()
def oracle_logits(oracle: PreTrainedModel, token_ids: Sequence[int]) -> Tensor:
    return oracle(torch.tensor([token_ids])).logits[0].float()


def is_greedy(oracle: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]) -> bool:
    """Whether each token of an answer of that length is the oracle's own after all before it."""
    best = oracle_logits(oracle, [*prompt, *answer])[len(prompt) - 1 : -1].argmax(-1).tolist()
    return len(answer) == NUM_GREEDY_TOKENS and best == list(answer)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layout_has_the_oracles_logits_and_greedy_tokens(
    variant: Variant, make_checkpoint: MakeCheckpoint
) -> None:
    folder = make_checkpoint(variant)
    oracle, runner = load_oracle(folder), load_runner(folder)
    prompt = random_prompt(300)

    sequence = RunningSequence(runner, pages=range(40), slot=1)
    logits = sequence.prefill_all(prompt)
    tokens = sequence.greedy(logits[-1], NUM_GREEDY_TOKENS)

    assert (logits - oracle_logits(oracle, prompt)).abs().max() < MAX_LOGIT_DIFFERENCE
    assert is_greedy(oracle, prompt, tokens)


@pytest.mark.parametrize("published", ["published_dense", "published_moe"])
def test_a_published_folder_computes_what_its_flat_source_does(
    published: str, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(published.replace("published", "tiny"))
    oracle, runner = load_oracle(source), load_runner(request.getfixturevalue(published))
    prompt = random_prompt(100)

    logits = RunningSequence(runner, pages=range(40), slot=1).prefill_all(prompt)

    assert (logits - oracle_logits(oracle, prompt)).abs().max() < MAX_LOGIT_DIFFERENCE


@pytest.mark.parametrize("folder", ["tiny_dense", "tiny_moe"])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 64, 300])
def test_any_chunk_size_has_the_oracles_logits_and_greedy_tokens(
    folder: str, chunk_tokens: int, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    oracle, runner = load_oracle(path), load_runner(path)
    prompt = random_prompt(300)

    sequence = RunningSequence(runner, pages=range(40), slot=1)
    after_chunks = sequence.prefill(prompt, chunk_tokens)
    tokens = sequence.greedy(after_chunks[-1], NUM_GREEDY_TOKENS)

    ends = [*range(chunk_tokens, 300, chunk_tokens), 300]
    expected = oracle_logits(oracle, prompt)[[end - 1 for end in ends]]
    assert (after_chunks - expected).abs().max() < MAX_LOGIT_DIFFERENCE
    assert is_greedy(oracle, prompt, tokens)


@pytest.mark.parametrize("folder", ["tiny_dense", "tiny_moe"])
def test_four_sequences_in_one_batch_each_have_the_oracles_greedy_tokens(
    folder: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    oracle, runner = load_oracle(path), load_runner(path)
    prompts = [random_prompt(n, seed=n) for n in (1, 17, 130, 64)]
    sequences = [
        RunningSequence(runner, pages=range(20 * i, 20 * i + 20), slot=i) for i in range(4)
    ]

    chunks = [s.take(prompt) for s, prompt in zip(sequences, prompts, strict=True)]
    answers = [[token] for token in runner.forward(chunks).argmax(-1).tolist()]
    while len(answers[0]) < NUM_GREEDY_TOKENS:
        chunks = [s.take(answer[-1:]) for s, answer in zip(sequences, answers, strict=True)]
        for answer, token in zip(answers, runner.forward(chunks).argmax(-1).tolist(), strict=True):
            answer.append(token)

    for prompt, answer in zip(prompts, answers, strict=True):
        assert is_greedy(oracle, prompt, answer)


@pytest.mark.parametrize("folder", ["tiny_dense", "tiny_moe"])
def test_bfloat16_is_as_far_from_float32_as_the_oracles_bfloat16(
    folder: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    prompt = random_prompt(300)
    exact = oracle_logits(load_oracle(path), prompt)
    runner = load_runner(path, dtype="bfloat16")

    logits = RunningSequence(runner, pages=range(40), slot=1).prefill_all(prompt)

    theirs = oracle_logits(load_oracle(path, torch.bfloat16), prompt)
    error, their_error = ((x - exact).square().mean().sqrt() for x in (logits, theirs))
    assert error < 1.5 * their_error
    assert error < MAX_BFLOAT16_ERROR * exact.std()
