"""Rows that are greedy or have a small top-k: two launches, and the reference's tokens."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from segue.kernels.sampling import MAX_FEW
from segue.kernels.sampling.triton import CHUNK
from segue.kernels.sampling.triton_list import SLOTS
from tests.kernels.device import DEVICE
from tests.kernels.launches import record
from tests.kernels.sampling_rows import Wanted, needs_of
from tests.kernels.test_sampling import some_logits, some_row
from tests.kernels.test_sampling_triton import expected, sampled

VOCABULARY = 248_320
"""The published models'."""
QWEN = Wanted(temperature=1.0, top_k=20, top_p=0.95)
"""What the published models ask for."""


def some_few(generator: random.Random, vocab_size: int) -> Wanted:
    top_k = generator.choice([1, 2, 3, 20, 20, 40, MAX_FEW])
    return replace(some_row(generator, vocab_size), top_k=top_k)


def assert_same(logits_RV: Tensor, wanted: list[Wanted], chunk: int) -> None:
    needs = needs_of(wanted)
    assert not needs.draws, "a row that has to be sampled from all tokens"
    assert sampled(logits_RV, wanted, needs, chunk) == expected(logits_RV, wanted)


def with_seeds(one: Wanted, number: int) -> list[Wanted]:
    generator = random.Random(number)
    return [replace(one, seed=generator.randrange(2**63)) for _ in range(number)]


@pytest.mark.parametrize(
    ("vocab_size", "num_rows", "chunk", "num_batches"),
    [(1, 3, 16, 2), (7, 10, 16, 2), (40, 8, 16, 2), (300, 6, 128, 3), (5000, 3, 4096, 1)],
)
def test_the_tokens_are_those_of_the_reference(
    vocab_size: int, num_rows: int, chunk: int, num_batches: int
) -> None:
    generator = random.Random(vocab_size)
    for _ in range(num_batches):
        logits_RV = torch.cat([some_logits(generator, 1, vocab_size) for _ in range(num_rows)])
        wanted = [some_few(generator, vocab_size) for _ in range(num_rows)]

        assert_same(logits_RV, wanted, chunk)


@pytest.mark.slow
def test_the_published_vocabulary() -> None:
    """Logits in bfloat16, so with equals; one row's best tokens are all in one chunk."""
    logits_RV = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 3
    logits_RV[0, 5000:5060] += 12.0
    logits_RV = logits_RV.bfloat16().float()
    penalised = replace(QWEN, presence=1.5, answer=(5003, 5003), pending=(5010, 77), seed=3)
    masked = Wanted(temperature=0.0, allowed=(11, 4095, 4096, VOCABULARY - 1))

    assert_same(logits_RV, [penalised, replace(QWEN, top_k=MAX_FEW, seed=4), masked], CHUNK)


@pytest.mark.parametrize("num_equal", [SLOTS - 3, SLOTS, SLOTS + 1, 200])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
def test_more_equals_than_lists_have_room_for(num_equal: int, top_p: float) -> None:
    """Three better tokens, and equals beside each other or all over the vocabulary."""
    side_by_side = torch.randn(1, 300, generator=torch.Generator().manual_seed(2)) - 9.0
    spread = side_by_side.clone()
    side_by_side[0, 40 : 40 + num_equal] = 1.0
    spread[0, torch.randperm(300, generator=torch.Generator().manual_seed(3))[:num_equal]] = 1.0
    for logits_V in (side_by_side, spread):
        logits_V[0, [7, 150, 299]] = 1.5
    one = Wanted(temperature=3.0, top_k=20, top_p=top_p)

    assert_same(torch.cat([side_by_side, spread]), with_seeds(one, 2), 128)


@pytest.mark.parametrize("min_p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("top_k", [1, 50])
def test_all_tokens_are_equal(top_k: int, min_p: float) -> None:
    one = Wanted(temperature=0.7, top_k=top_k, top_p=0.4, min_p=min_p)

    assert_same(torch.zeros(2, 300), with_seeds(one, 2), 128)


def test_what_may_not_be_drawn_never_is() -> None:
    """Fewer tokens than top-k asks for, and one alone; impossible ones are equals too."""
    logits_RV = torch.full((3, 300), -torch.inf)
    logits_RV[0, [3, 130, 290]] = torch.tensor([0.5, 0.1, 0.5])
    logits_RV[1, 170] = -4.0
    logits_RV[2] = torch.arange(300.0)
    wanted = [
        *with_seeds(replace(QWEN, top_p=1.0), 2),
        replace(QWEN, allowed=(2, 3, 4), temperature=50.0, seed=9),
    ]

    assert_same(logits_RV, wanted, 64)


def test_low_equals_outside_a_draft_vocabulary_change_nothing() -> None:
    """Fewer drafted tokens than top-k asks for: the rest have one low score, and no mass."""
    logits_RV = torch.full((4, 300), -1e30)
    logits_RV[:, :10] = torch.randn(4, 10, generator=torch.Generator().manual_seed(4))

    assert_same(logits_RV, with_seeds(replace(QWEN, top_p=0.999), 4), 64)


def test_scores_that_are_no_numbers_still_give_a_token() -> None:
    for wanted in (QWEN, Wanted(temperature=0.0, allowed=(1,))):
        (token,) = sampled(torch.full((1, 40), torch.nan), [wanted], needs_of([wanted]), 16)

        assert 0 <= token < 40


def test_an_empty_batch_gives_no_tokens() -> None:
    assert sampled(torch.empty(0, 20), [], needs_of([QWEN]), 16) == []


@pytest.mark.skipif(DEVICE == "cuda", reason="launches are recorded by the interpreter")
@pytest.mark.parametrize("one", [QWEN, Wanted(temperature=0.0, frequency=1.0, answer=(3,))])
def test_two_kernels_are_launched(one: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    launches = record(monkeypatch)

    assert_same(torch.randn(1, 300), [one], 128)

    assert {launch.kernel.rpartition(".")[2] for launch in launches} == {
        "list_kernel",
        "choose_kernel",
    }


def test_a_row_gets_the_same_token_beside_others() -> None:
    generator = random.Random(6)
    logits_RV = torch.cat([some_logits(generator, 1, 300) for _ in range(16)])
    wanted = [some_few(generator, 300) for _ in range(16)]
    whole = sampled(logits_RV, wanted, needs_of(wanted), 128)

    for part in (slice(0, 1), slice(5, 8)):
        assert sampled(logits_RV[part], wanted[part], needs_of(wanted), 128) == whole[part]
