"""Drafts and verified answers against transformers: its MTP layer, and its greedy tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from segue.engine.batch import DraftStart, PrefillChunk
from segue.engine.runner import ModelRunner
from tests.checkpoints import VOCAB_SIZE
from tests.engine.drafting import DraftingSequence, draft, verify
from tests.engine.mtp_oracle import MtpOracle
from tests.runners import new_runner

MAX_LOGIT_DIFFERENCE = 1e-4
PAGE_TOKENS = 16
NUM_DRAFTS = 4

FOLDERS = ["mtp_dense", "mtp_moe"]


@pytest.fixture(scope="module")
def oracles() -> dict[Path, MtpOracle]:
    return {}


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture
def oracle(folder: Path, oracles: dict[Path, MtpOracle]) -> MtpOracle:
    if folder not in oracles:
        oracles[folder] = MtpOracle(folder)
    return oracles[folder]


@pytest.fixture
def runner(folder: Path) -> ModelRunner:
    """The whole cache is NaN, so that reading before writing is detected."""
    runner = new_runner(folder, page_tokens=PAGE_TOKENS, num_pages=64, num_slots=32)
    for _, tensor in runner.tensors.fields():
        tensor.fill_(torch.nan)
    return runner


def random_prompt(num_tokens: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCAB_SIZE, (num_tokens,), generator=generator).tolist()


def check_drafts(
    runner: ModelRunner, oracle: MtpOracle, start: DraftStart, token_ids: Sequence[int]
) -> list[int]:
    """Greedy drafts, each of which goes in for the next, have the oracle's logits."""
    drafter, drafts = runner.drafter([start]), list[int]()
    logits = []
    while len(drafts) < NUM_DRAFTS:
        logits.append(drafter.step([drafts[-1] if drafts else token_ids[-1]])[0])
        drafts.append(int(logits[-1].argmax()))
    expected = oracle.draft_logits(token_ids, drafts[:-1])
    assert (torch.stack(logits) - expected).abs().max() < MAX_LOGIT_DIFFERENCE
    return drafts


@pytest.mark.parametrize("num_tokens", [1, 2, 16, 17, 70])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 16, 100])
def test_drafts_after_a_prompt_are_the_oracles_however_it_was_cut(
    runner: ModelRunner, oracle: MtpOracle, num_tokens: int, chunk_tokens: int
) -> None:
    sequence = DraftingSequence(runner, range(9), [3], random_prompt(num_tokens))

    sequence.prefill(chunk_tokens)

    check_drafts(runner, oracle, sequence.draft_start(), sequence.tokens)


def test_drafts_after_a_prompt_that_continued_from_a_checkpoint_are_the_oracles(
    runner: ModelRunner, oracle: MtpOracle
) -> None:
    """The checkpoint is the end of a prefill segment, and the pages before it belong to another
    sequence."""
    first, tail = random_prompt(40), random_prompt(20, seed=1)
    runner.forward(
        [
            PrefillChunk(
                token_ids=first,
                start=0,
                page_ids=range(3),
                slot_in=None,
                slot_out=0,
                checkpoints=[(16, 1), (32, 2)],
            )
        ]
    )
    branch = [*first[:32], *tail]

    runner.forward(
        [PrefillChunk(token_ids=tail, start=32, page_ids=[0, 1, 20, 21], slot_in=2, slot_out=5)]
    )

    start = DraftStart(position=len(branch), page_ids=[0, 1, 20, 21], slot=5)
    check_drafts(runner, oracle, start, [*branch, 9])
    # From the last to the first: drafting writes over the entries that lie behind.
    for position, slot in ((40, 0), (32, 2), (16, 1)):
        at = DraftStart(position=position, page_ids=[0, 1, 2], slot=slot)
        check_drafts(runner, oracle, at, [*first, 7][: position + 1])


def test_drafts_after_mixed_acceptance_are_the_oracles(
    runner: ModelRunner, oracle: MtpOracle
) -> None:
    prompt = random_prompt(29)
    answer = oracle.greedy(prompt, 60)
    sequence = DraftingSequence(runner, range(9), range(NUM_DRAFTS + 2), prompt)
    sequence.prefill()

    seen = []
    for num_right in (0, 2, 4, 1, 3, 0, 4, 4, 2):
        drafts = check_drafts(runner, oracle, sequence.draft_start(), sequence.tokens)
        drafts[:num_right] = answer[sequence.num_answered :][:num_right]
        seen += verify(runner, [sequence], [drafts])

    assert seen == [0, 2, 4, 1, 3, 0, 4, 4, 2]
    assert sequence.tokens == [*prompt, *answer[: sequence.num_answered]]


def test_logits_of_verify_are_those_of_decode(runner: ModelRunner, oracle: MtpOracle) -> None:
    prompt, drafts = random_prompt(30), random_prompt(7, seed=3)
    sequence = DraftingSequence(runner, range(9), range(9), prompt)
    sequence.prefill()

    logits = runner.forward([sequence.decode_chunk(drafts)])

    expected = oracle.logits([*sequence.tokens, *drafts])[-8:]
    assert (logits - expected).abs().max() < MAX_LOGIT_DIFFERENCE


@pytest.mark.parametrize("num_drafts", [0, 1, 2, 3, 4])
def test_a_loop_of_drafting_and_verifying_gives_the_oracles_greedy_tokens(
    runner: ModelRunner, oracle: MtpOracle, num_drafts: int
) -> None:
    """Of four sequences at once. A random layer's drafts are never right, so some are replaced."""
    prompts = [random_prompt(n, seed=n) for n in (1, 15, 33, 50)]
    answers = [oracle.greedy(prompt, 48) for prompt in prompts]
    sequences = [
        DraftingSequence(runner, range(10 * i, 10 * i + 10), range(6 * i, 6 * i + 6), prompt)
        for i, prompt in enumerate(prompts)
    ]
    for sequence in sequences:
        sequence.prefill()

    accepted, generator = list[int](), torch.Generator().manual_seed(0)
    while max(s.num_answered for s in sequences) < 43:
        # Of different lengths, in falling order: as where some answers are about to end.
        lengths = [num_drafts, num_drafts, max(num_drafts - 1, 0), num_drafts // 2]
        drafts = draft(runner, sequences, lengths)
        for sequence, some, answer in zip(sequences, drafts, answers, strict=True):
            num_right = int(torch.randint(len(some) + 1, (1,), generator=generator))
            some[:num_right] = answer[sequence.num_answered :][:num_right]
        order = torch.randperm(4, generator=generator).tolist()
        accepted += verify(runner, [sequences[i] for i in order], [drafts[i] for i in order])

    assert set(accepted) == set(range(num_drafts + 1))
    for sequence, answer in zip(sequences, answers, strict=True):
        assert sequence.tokens == [*sequence.prompt, *answer[: sequence.num_answered]]
