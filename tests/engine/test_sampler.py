from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from segue.api.types import Sampling
from segue.engine.sampler import SamplerRow, SequenceSampler, pack_rows, sample, sample_ids
from segue.kernels import sampling
from segue.kernels.sampling import reference

VOCAB = 64
CHI_SQUARE_999 = {7: 24.32, 3: 16.27}
"""Of 1000 samples that follow the law, one is above."""


def sequence(
    params: Sampling,
    prompt_ids: tuple[int, ...] = (0,),
    answer_ids: tuple[int, ...] = (),
    vocab_size: int = VOCAB,
) -> SequenceSampler:
    return SequenceSampler(
        params, vocab_size=vocab_size, prompt_ids=prompt_ids, answer_ids=answer_ids
    )


def logits(num_rows: int, seed: int = 0, vocab_size: int = VOCAB) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, vocab_size, generator=generator) * 3


def token_of(logits_V: torch.Tensor, params: Sampling, position: int = 1) -> int:
    rows = [SamplerRow(sequence(params, vocab_size=logits_V.numel()), position)]
    return sample(logits_V[None], rows)[0].token_id


def adjusted(
    one: SequenceSampler, logits_V: torch.Tensor, pending: tuple[int, ...] = ()
) -> torch.Tensor:
    """The row's logits with bias and penalties."""
    rows, ledger = pack_rows([SamplerRow(one, 1, pending)], one.needs, logits_V.device)
    return reference.adjusted(logits_V[None], rows, one.needs, ledger)[0]


def draws(logits_V: torch.Tensor, params: Sampling, count: int) -> list[int]:
    """At `count` positions of one sequence."""
    one = sequence(params, vocab_size=logits_V.numel())
    rows = [SamplerRow(one, position) for position in range(count)]
    return [token.token_id for token in sample(logits_V.expand(count, -1), rows)]


def test_an_empty_batch_gives_no_tokens() -> None:
    assert sample(torch.empty(0, VOCAB), []) == []


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_greedy_takes_the_best_token_that_a_mask_allows(share: float) -> None:
    draw = np.random.default_rng(round(100 * share))
    batch = logits(40, vocab_size=70).round()
    allowed = draw.random((40, 96)) < share
    allowed[np.arange(40), draw.integers(70, size=40)] = True
    words = np.packbits(allowed, axis=1, bitorder="little").view(np.int32)
    one = sequence(Sampling(), vocab_size=70)
    rows = [SamplerRow(one, 1, mask=words[i] if i % 4 else None) for i in range(40)]

    for row, token_id in enumerate(sample_ids(batch, rows)):
        legal = allowed[row, :70] if row % 4 else np.ones(70, dtype=bool)
        assert token_id == np.where(legal, batch[row].numpy(), -np.inf).argmax()


def test_greedy_takes_the_best_token_and_of_equals_the_lowest_id() -> None:
    assert token_of(torch.tensor([0.0, 2.0, 1.0, 2.0]), Sampling()) == 1


def test_plain_greedy_rows_cost_one_argmax(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("more than the best token was asked for")

    monkeypatch.setattr(sampling, "sample", refuse)
    batch = logits(5)

    tokens = sample(batch, [SamplerRow(sequence(Sampling()), 1)] * 5)

    assert [token.token_id for token in tokens] == batch.argmax(dim=-1).tolist()


KINDS = [
    Sampling(),
    Sampling(logprobs=3),
    Sampling(repetition_penalty=1.3),
    Sampling(logit_bias={5: 4.0}),
    Sampling(temperature=1.0, seed=7),
    Sampling(temperature=0.7, top_k=8, seed=8, logprobs=2),
    Sampling(temperature=1.2, top_p=0.9, seed=9),
    Sampling(temperature=1.2, min_p=0.1, seed=9, presence_penalty=1.0),
]


def test_a_rows_token_does_not_depend_on_the_batch_around_it() -> None:
    batch = logits(len(KINDS))
    rows = [SamplerRow(sequence(params, (1, 2), (3, 3)), 5 + i) for i, params in enumerate(KINDS)]

    together = sample(batch, rows)
    backwards = sample(batch.flip(0), rows[::-1])[::-1]
    alone = [sample(batch[i : i + 1], [row])[0] for i, row in enumerate(rows)]

    assert together == backwards == alone


def test_logits_are_not_modified() -> None:
    batch = logits(len(KINDS))
    before = batch.clone()

    sample(batch, [SamplerRow(sequence(params, (1,), (2,)), 3) for params in KINDS])

    assert batch.equal(before)


def test_a_bias_changes_the_choice() -> None:
    batch = torch.tensor([0.0, 2.0, 1.0])

    assert token_of(batch, Sampling(logit_bias={2: 1.5})) == 2
    assert token_of(batch, Sampling(logit_bias={1: -100.0, 2: -100.0})) == 0


@pytest.mark.parametrize("penalty", [0.5, 1.3, 5.0])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    batch = logits(1, seed=3)
    prompt, answer = (1, 2, 2, 40), (2, 7)

    penalised = sequence(Sampling(repetition_penalty=penalty), prompt, answer)
    ours = adjusted(penalised, batch[0])

    oracle = RepetitionPenaltyLogitsProcessor(penalty)
    theirs = oracle(torch.tensor([[*prompt, *answer]]), batch.clone())[0]
    assert ours.equal(theirs)


def test_presence_and_frequency_count_the_answer_only() -> None:
    params = Sampling(presence_penalty=0.5, frequency_penalty=0.25)

    scores = adjusted(sequence(params, (1, 1, 2), (3, 4, 4), vocab_size=6), torch.zeros(6))

    assert scores.tolist() == [0.0, 0.0, 0.0, -0.75, -1.0, 0.0]


def test_observed_tokens_count_like_those_given_at_the_start() -> None:
    params = Sampling(
        repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={9: 1.0}
    )
    grown = sequence(params, (1,))
    for token_id in (5, 6, 5):
        grown.observe(token_id)

    whole = sequence(params, (1,), (5, 6, 5))

    assert adjusted(grown, logits(1)[0]).equal(adjusted(whole, logits(1)[0]))


def test_pending_tokens_count_as_if_they_had_been_observed_and_leave_no_trace() -> None:
    params = Sampling(
        temperature=0.8,
        seed=5,
        repetition_penalty=1.2,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias={9: 1.0},
    )
    batch = logits(1)
    waiting, whole = sequence(params, (1,), (5,)), sequence(params, (1,), (5, 6, 6))
    before = adjusted(waiting, batch[0])

    scores = adjusted(waiting, batch[0], (6, 6))

    assert scores.equal(adjusted(whole, batch[0]))
    assert adjusted(waiting, batch[0]).equal(before)
    assert not scores.equal(before)
    rows = [SamplerRow(waiting, 9, (6, 6)), SamplerRow(whole, 9)]
    assert len(set(sample_ids(batch.expand(2, -1), rows))) == 1


def test_sample_ids_gives_the_ids_of_sample() -> None:
    batch = logits(len(KINDS))
    rows = [SamplerRow(sequence(params, (1, 2), (3, 3)), 5 + i) for i, params in enumerate(KINDS)]

    assert sample_ids(batch, rows) == [token.token_id for token in sample(batch, rows)]


def chi_square(counts: Counter[int], probs: list[float]) -> float:
    num_draws = counts.total()
    return sum((counts[i] - num_draws * p) ** 2 / (num_draws * p) for i, p in enumerate(probs) if p)


def test_tokens_follow_the_law_of_the_logits() -> None:
    scores_V = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, 0.5, -2.0, 1.5])
    params = Sampling(temperature=0.8, seed=11)

    counts = Counter(draws(scores_V, params, 20_000))

    probs = (scores_V.double() / 0.8).softmax(dim=0).tolist()
    assert chi_square(counts, probs) < CHI_SQUARE_999[len(probs) - 1]


def test_filtered_tokens_are_never_drawn_and_the_rest_keep_their_law() -> None:
    scores_V = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, 0.4, -2.0, 1.5])
    params = Sampling(temperature=1.0, top_k=4, seed=12)

    counts = Counter(draws(scores_V, params, 10_000))

    kept = [1, 3, 4, 7]
    assert sorted(counts) == kept
    probs = scores_V[kept].double().softmax(dim=0).tolist()
    renumbered = Counter({index: counts[token_id] for index, token_id in enumerate(kept)})
    assert chi_square(renumbered, probs) < CHI_SQUARE_999[len(kept) - 1]


def test_the_law_holds_over_seeds_as_well_as_over_positions() -> None:
    scores_V = torch.tensor([0.0, 1.0, 2.0, 0.5])
    rows = [
        SamplerRow(sequence(Sampling(temperature=1.0, seed=seed), vocab_size=4), 17)
        for seed in range(10_000)
    ]

    tokens = sample(scores_V.expand(len(rows), -1), rows)

    counts = Counter(token.token_id for token in tokens)
    assert chi_square(counts, scores_V.double().softmax(dim=0).tolist()) < CHI_SQUARE_999[3]


def test_seeds_and_positions_differ_and_repeat() -> None:
    flat_V = torch.zeros(VOCAB)
    first = draws(flat_V, Sampling(temperature=1.0, seed=1), 50)

    assert first == draws(flat_V, Sampling(temperature=1.0, seed=1), 50)
    assert first != draws(flat_V, Sampling(temperature=1.0, seed=2), 50)
    assert len(set(first)) > 20


def test_a_tiny_temperature_is_greedy() -> None:
    batch = logits(20)

    drawn = [token_of(row_V, Sampling(temperature=1e-30, seed=3)) for row_V in batch]

    assert drawn == batch.argmax(dim=-1).tolist()


def test_logprobs_are_those_of_the_model_whatever_was_changed_for_the_draw() -> None:
    batch = logits(1, seed=4)
    params = Sampling(temperature=2.0, top_k=3, logit_bias={9: 50.0}, logprobs=3)

    (token,) = sample(batch, [SamplerRow(sequence(params), 1)])

    expected_V = batch[0].log_softmax(dim=-1)
    best = expected_V.topk(3)
    assert token.token_id == 9
    assert token.logprob == float(expected_V[9])
    assert [top.token_id for top in token.top_logprobs] == best.indices.tolist()
    assert [top.logprob for top in token.top_logprobs] == best.values.tolist()


def test_logprobs_may_be_requested_without_alternatives_or_with_too_many() -> None:
    batch = logits(2, vocab_size=4)
    few, many = Sampling(logprobs=0), Sampling(logprobs=20)

    tokens = sample(batch, [SamplerRow(sequence(few), 1), SamplerRow(sequence(many), 1)])

    assert tokens[0].logprob is not None
    assert tokens[0].top_logprobs == ()
    assert len(tokens[1].top_logprobs) == 4
