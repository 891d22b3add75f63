"""Against transformers' logits warpers in float64: the same tokens stay.

Where top-p cuts through equal scores, transformers keeps some of them and we keep the lowest ids.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from segue.engine.filters import filter_tokens, is_above_min_p, is_in_top_p
from segue.types import SamplingParams


def spread(num_tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(num_tokens, generator=torch.Generator().manual_seed(seed)) * 4


SCORES = {
    "one token": torch.tensor([3.0]),
    "all equal": torch.zeros(10),
    "pairs of equals": torch.tensor([1.0, 2.0, 2.0, 1.0, 0.0, 0.0, 2.0, 1.0]),
    "one certain": torch.tensor([0.0, 80.0, 0.0, -5.0]),
    "some impossible": torch.tensor([0.0, float("-inf"), 1.0, float("-inf"), 1.0]),
    "rounded, many ties": (spread(3000, 1) * 2).round() / 2,
    "spread": spread(3000, 2),
    "flat": spread(3000, 3) / 40,
}
scores = pytest.mark.parametrize("scores_V", SCORES.values(), ids=SCORES.keys())


def kept_by(
    warpers: list[TopKLogitsWarper | TopPLogitsWarper | MinPLogitsWarper], scores_V: torch.Tensor
) -> list[int]:
    warped = scores_V.double()[None]
    for warper in warpers:
        warped = warper(torch.empty(1, 0, dtype=torch.int64), warped)
    ids: list[int] = torch.isfinite(warped[0]).nonzero()[:, 0].tolist()
    return ids


def kept_by_us(scores_V: torch.Tensor, params: SamplingParams) -> list[int]:
    ids_K, scores_K = filter_tokens(scores_V, params)
    ids: list[int] = ids_K[torch.isfinite(scores_K)].tolist()
    return ids


def lowest_of_equals(kept: list[int], scores_V: torch.Tensor) -> list[int]:
    """As many of each score as in `kept`, and of equals those with the lowest ids."""
    left = Counter(scores_V[kept].tolist())
    chosen = []
    for token_id, score in enumerate(scores_V.tolist()):
        if left[score] > 0:
            left[score] -= 1
            chosen.append(token_id)
    return chosen


@scores
@pytest.mark.parametrize("top_k", [1, 2, 3, 5, 50, 5000])
def test_top_k_keeps_what_transformers_keeps(scores_V: torch.Tensor, top_k: int) -> None:
    params = SamplingParams(temperature=1.0, top_k=top_k)

    assert kept_by_us(scores_V, params) == kept_by([TopKLogitsWarper(top_k)], scores_V)


@scores
@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 0.95, 0.999999])
def test_top_p_keeps_what_transformers_keeps(scores_V: torch.Tensor, top_p: float) -> None:
    params = SamplingParams(temperature=1.0, top_p=top_p)

    ours, theirs = kept_by_us(scores_V, params), kept_by([TopPLogitsWarper(top_p)], scores_V)
    assert ours == lowest_of_equals(theirs, scores_V)


@scores
@pytest.mark.parametrize("min_p", [0.01, 0.1, 0.5, 0.9, 1.0])
def test_min_p_keeps_what_transformers_keeps(scores_V: torch.Tensor, min_p: float) -> None:
    params = SamplingParams(temperature=1.0, min_p=min_p)

    assert kept_by_us(scores_V, params) == kept_by([MinPLogitsWarper(min_p)], scores_V)


@scores
def test_all_filters_in_a_row_keep_what_transformers_keeps(scores_V: torch.Tensor) -> None:
    params = SamplingParams(temperature=1.0, top_k=20, top_p=0.8, min_p=0.05)
    warpers = [TopKLogitsWarper(20), TopPLogitsWarper(0.8), MinPLogitsWarper(0.05)]

    theirs = kept_by(warpers, scores_V)
    assert kept_by_us(scores_V, params) == lowest_of_equals(theirs, scores_V)


def test_without_filters_every_token_stays() -> None:
    ids_K, scores_K = filter_tokens(torch.tensor([1.0, 3.0, 2.0]), SamplingParams(temperature=0.5))

    assert ids_K.tolist() == [0, 1, 2]
    assert scores_K.tolist() == [-4.0, 0.0, -2.0]


def test_a_tiny_temperature_leaves_the_best_score_apart_from_the_rest() -> None:
    params = SamplingParams(temperature=5e-324)

    _, scores_K = filter_tokens(torch.tensor([20.0, 20.5, 19.0]), params)

    assert scores_K.tolist() == [float("-inf"), 0.0, float("-inf")]


def test_the_best_token_always_stays() -> None:
    scores_K = torch.tensor([-1.0, 0.0, -1.0], dtype=torch.float64)

    assert is_in_top_p(scores_K, 1e-12).tolist() == [False, True, False]
    assert is_above_min_p(scores_K, 1.0).tolist() == [False, True, False]
