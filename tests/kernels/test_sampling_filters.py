"""Against transformers' logits warpers in float64: the same tokens stay.

Where top-p cuts through equal scores, transformers keeps some of them and we keep the lowest ids.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from segue.kernels.sampling import reference
from tests.kernels.sampling_rows import Wanted, needs_of, rows_of


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


def filtered(scores_V: torch.Tensor, wanted: Wanted) -> tuple[torch.Tensor, torch.Tensor]:
    """What stays of a row: ids by rising id, and their scores."""
    scores_1V = scores_V[None]
    scores_1C, ids_1C = reference.filtered(
        scores_1V,
        rows_of([wanted]),
        needs_of([wanted]),
        is_limited=0 < wanted.top_k < len(scores_V),
    )
    ids_C = torch.arange(len(scores_V)) if ids_1C is None else ids_1C[0]
    stays = torch.isfinite(scores_1C[0])
    order = ids_C[stays].argsort()
    return ids_C[stays][order], scores_1C[0][stays][order]


def kept_by_us(scores_V: torch.Tensor, wanted: Wanted) -> list[int]:
    ids: list[int] = filtered(scores_V, wanted)[0].tolist()
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


@pytest.fixture(autouse=True, params=[0, 1 << 20], ids=["choosing", "all at once"])
def _few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small vocabularies are worked on as a whole, large ones without what surely goes."""
    monkeypatch.setattr(reference, "_FEW", request.param)
    # So that what filters would keep is there to be seen, however improbable.
    monkeypatch.setattr(reference, "_NEVER", float("-inf"))


@scores
@pytest.mark.parametrize("top_k", [1, 2, 3, 5, 50, 5000])
def test_top_k_keeps_what_transformers_keeps(scores_V: torch.Tensor, top_k: int) -> None:
    wanted = Wanted(temperature=1.0, top_k=top_k)

    assert kept_by_us(scores_V, wanted) == kept_by([TopKLogitsWarper(top_k)], scores_V)


@scores
@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 0.95, 0.999999])
def test_top_p_keeps_what_transformers_keeps(scores_V: torch.Tensor, top_p: float) -> None:
    wanted = Wanted(temperature=1.0, top_p=top_p)

    ours, theirs = kept_by_us(scores_V, wanted), kept_by([TopPLogitsWarper(top_p)], scores_V)
    assert ours == lowest_of_equals(theirs, scores_V)


@scores
@pytest.mark.parametrize("min_p", [0.01, 0.1, 0.5, 0.9, 1.0])
def test_min_p_keeps_what_transformers_keeps(scores_V: torch.Tensor, min_p: float) -> None:
    wanted = Wanted(temperature=1.0, min_p=min_p)

    assert kept_by_us(scores_V, wanted) == kept_by([MinPLogitsWarper(min_p)], scores_V)


@scores
def test_all_filters_in_a_row_keep_what_transformers_keeps(scores_V: torch.Tensor) -> None:
    wanted = Wanted(temperature=1.0, top_k=20, top_p=0.8, min_p=0.05)
    warpers = [TopKLogitsWarper(20), TopPLogitsWarper(0.8), MinPLogitsWarper(0.05)]

    theirs = kept_by(warpers, scores_V)
    assert kept_by_us(scores_V, wanted) == lowest_of_equals(theirs, scores_V)


def test_without_filters_every_token_stays() -> None:
    ids, scores = filtered(torch.tensor([1.0, 3.0, 2.0]), Wanted(temperature=0.5))

    assert ids.tolist() == [0, 1, 2]
    assert scores.tolist() == [-4.0, 0.0, -2.0]


def test_a_tiny_temperature_leaves_the_best_score_apart_from_the_rest() -> None:
    ids, scores = filtered(torch.tensor([20.0, 20.5, 19.0]), Wanted(temperature=5e-324))

    assert ids.tolist() == [1]
    assert scores.tolist() == [0.0]


@pytest.mark.parametrize("wanted", [Wanted(top_p=1e-12), Wanted(min_p=1.0)])
def test_the_best_token_always_stays(wanted: Wanted) -> None:
    assert kept_by_us(torch.tensor([-1.0, 0.0, -1.0]), wanted) == [1]
