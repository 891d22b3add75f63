"""The sampling operator against its definition, one row and one token at a time."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from segue.engine.speculation.acceptance import num_accepted as num_accepted_of_sequence
from segue.kernels import NO_SLOT, sampling
from segue.kernels.sampling import IN_PROMPT, SamplingFeatures, reference
from tests.kernels.sampling_rows import Wanted, ledger_of, needs_of, rows_of, token_of


def sampled(
    logits_RV: Tensor, wanted: list[Wanted], needs: SamplingFeatures | None = None
) -> list[int]:
    ids: list[int] = sampling.sample(
        logits_RV,
        rows_of(wanted),
        needs_of(wanted) if needs is None else needs,
        ledger_of(wanted, logits_RV.shape[1]),
    ).tolist()
    return ids


def some_logits(generator: random.Random, num_rows: int, vocab_size: int) -> Tensor:
    """Of all kinds: flat and peaked, with equals, with impossible tokens."""
    noise = torch.Generator().manual_seed(generator.randrange(2**31))
    logits = torch.randn(num_rows, vocab_size, generator=noise) * generator.choice([0.1, 1, 3, 10])
    if generator.random() < 0.4:
        logits = (logits * 2).round() / 2
    if generator.random() < 0.2 and vocab_size > 2:
        logits[:, ::2] = -torch.inf
    return logits


def some_row(generator: random.Random, vocab_size: int) -> Wanted:
    def ids(most: int) -> tuple[int, ...]:
        return tuple(generator.randrange(vocab_size) for _ in range(generator.randrange(most + 1)))

    choice = generator.choice
    return Wanted(
        temperature=choice([0.0, 0.0, 1e-30, 0.3, 1.0, 1.0, 2.0, 30.0]),
        top_k=choice([0, 0, 1, 2, 20, max(vocab_size - 1, 1), vocab_size, 2**31]),
        top_p=choice([1.0, 1.0, 1e-9, 0.1, 0.5, 0.95, 0.999999]),
        min_p=choice([0.0, 0.0, 0.001, 0.05, 0.5, 1.0]),
        repetition=choice([1.0, 1.0, 1.3, 0.7]),
        presence=choice([0.0, 0.0, 0.7, -1.5]),
        frequency=choice([0.0, 0.0, 0.4, -0.3]),
        bias=choice([(), (), ((0, 3.0),), ((vocab_size - 1, -100.0),)]),
        seed=generator.randrange(2**63),
        position=generator.randrange(2**40),
        prompt=ids(20),
        answer=ids(6),
        pending=choice([(), ids(4)]),
        # Some are possible: logits of even tokens may be -inf.
        allowed=choice([None, (*ids(30), vocab_size // 2 * 2 - 1 if vocab_size > 1 else 0)]),
    )


@pytest.mark.parametrize(("vocab_size", "num_batches"), [(1, 20), (7, 60), (300, 60), (5000, 15)])
def test_each_row_gets_the_token_of_the_definition(vocab_size: int, num_batches: int) -> None:
    generator = random.Random(vocab_size)
    for _ in range(num_batches):
        num_rows = generator.choice([1, 2, 3, 9])
        logits_RV = some_logits(generator, num_rows, vocab_size)
        wanted = [some_row(generator, vocab_size) for _ in range(num_rows)]
        before = logits_RV.clone()

        ids = sampled(logits_RV, wanted)

        assert ids == [token_of(row_V, one) for row_V, one in zip(logits_RV, wanted, strict=True)]
        assert logits_RV.equal(before)


def test_rows_that_ask_for_less_than_others_get_the_same() -> None:
    generator = random.Random(0)
    logits_RV = some_logits(generator, 24, 300)
    wanted = [
        replace(one, top_k=0, top_p=1.0, min_p=0.0, bias=()) if i % 2 else one
        for i, one in enumerate(some_row(generator, 300) for _ in range(24))
    ]

    together = sampled(logits_RV, wanted, sampling.EVERYTHING)

    assert together == [sampled(logits_RV[i : i + 1], [one])[0] for i, one in enumerate(wanted)]


@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 300])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_masked_row_gets_only_its_tokens(vocab_size: int, temperature: float) -> None:
    last = vocab_size - 1
    logits_RV = some_logits(random.Random(vocab_size), 3, vocab_size).clamp(min=-30)
    wanted = [
        Wanted(temperature=temperature, allowed=(0,), bias=((last, 50.0),)),
        Wanted(temperature=temperature),
        Wanted(temperature=temperature, allowed=(last,), repetition=0.5, answer=(last,)),
    ]

    ids = sampled(logits_RV, wanted)

    assert (ids[0], ids[2]) == (0, last)
    assert ids[1] == sampled(logits_RV[1:2], wanted[1:2])[0]


def test_greedy_rows_alone_may_be_given_what_others_would_need() -> None:
    logits_RV = some_logits(random.Random(0), 3, 300)

    ids = sampled(logits_RV, [Wanted(temperature=0.0)] * 3, sampling.EVERYTHING)

    assert ids == logits_RV.argmax(1).tolist()


def test_an_empty_batch_gives_no_tokens() -> None:
    assert sampled(torch.empty(0, 300), [], sampling.EVERYTHING) == []


def test_of_tokens_equal_in_all_the_lowest_id_is_greedy() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0]])

    assert sampled(logits, [Wanted(temperature=0.0)]) == [1]


@pytest.mark.parametrize("vocab_size", [300, 5000])
def test_scores_that_are_no_numbers_still_give_a_token(vocab_size: int) -> None:
    for value in (torch.nan, torch.inf, -torch.inf):
        for one in (Wanted(), Wanted(top_k=5, top_p=0.9), Wanted(top_p=0.9), Wanted(min_p=0.1)):
            (token,) = sampled(torch.full((1, vocab_size), value), [one])

            assert 0 <= token < vocab_size


def test_more_scores_than_are_worked_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(3)
    logits_RV = some_logits(generator, 9, 300)
    wanted = [some_row(generator, 300) for _ in range(9)]
    expected = sampled(logits_RV, wanted)

    monkeypatch.setattr(reference, "_MAX_SCORES", 600)

    assert sampled(logits_RV, wanted) == expected


def test_observed_tokens_count_once_for_each_place() -> None:
    counts_SV = torch.zeros(3, 8, dtype=torch.int32)
    counts_SV[2, 5] = IN_PROMPT
    slots, nums = torch.tensor([2, NO_SLOT, 0]), torch.tensor([3, 2, 0])

    sampling.observe(counts_SV, slots, torch.tensor([[5, 7, 7], [1, 1, 1], [4, 4, 4]]), nums)

    assert counts_SV[2].tolist() == [0, 0, 0, 0, 0, IN_PROMPT + 1, 0, 2]
    assert not counts_SV[:2].any()


def test_drafts_count_while_they_are_the_targets() -> None:
    generator = random.Random(1)
    nums = [generator.randrange(4) for _ in range(200)]
    drafts = [[generator.randrange(2) for _ in range(3)] for _ in nums]
    targets = [[generator.randrange(2) for _ in range(4)] for _ in nums]

    accepted = sampling.num_accepted(
        torch.tensor(drafts), torch.tensor(targets), torch.tensor(nums)
    )

    assert accepted.tolist() == [
        num_accepted_of_sequence(draft[:num], target[: num + 1])
        for num, draft, target in zip(nums, drafts, targets, strict=True)
    ]
    assert set(accepted.tolist()) == {0, 1, 2, 3}


def test_without_drafts_none_is_accepted() -> None:
    none = torch.empty(2, 0, dtype=torch.int64)

    assert sampling.num_accepted(none, torch.tensor([[3], [4]]), torch.tensor([0, 0])).tolist() == [
        0,
        0,
    ]
