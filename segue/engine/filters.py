"""Which tokens may be drawn: top-k, top-p and min-p, as `transformers` means them.

Each takes the scores of the tokens that are left and says which of them stay. In float64, so that
a sum over 248,000 tokens is the same in any order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segue.types import SamplingParams

# Letters of shapes: V = vocabulary, K = tokens that are left.


def filter_tokens(scores_V: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """The ids that may be drawn, ascending, and their scores after temperature, float64: both [K].

    `params.temperature` must be above 0. At least one token stays.
    """
    ids_K, scores_K = _keep_top_k(scores_V, params.top_k)
    # The best score becomes 0, so a tiny temperature cannot make two scores infinite.
    scores_K = (scores_K - scores_K.max()).div_(params.temperature)
    if params.top_p < 1.0:
        stays_K = is_in_top_p(scores_K, params.top_p)
        ids_K, scores_K = ids_K[stays_K], scores_K[stays_K]
    if params.min_p > 0.0:
        stays_K = is_above_min_p(scores_K, params.min_p)
        ids_K, scores_K = ids_K[stays_K], scores_K[stays_K]
    return ids_K, scores_K


def _keep_top_k(scores_V: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The k best tokens, and all that equal the last of them."""
    if not 0 < top_k < scores_V.numel():
        return torch.arange(scores_V.numel(), device=scores_V.device), scores_V.to(torch.float64)
    lowest = scores_V.topk(top_k).values[-1]
    ids_K = (scores_V >= lowest).nonzero()[:, 0]
    return ids_K, scores_V[ids_K].to(torch.float64)


def is_in_top_p(scores_K: Tensor, top_p: float) -> Tensor:
    """The fewest best tokens that have `top_p` of the probability; of equals, the lowest ids.

    (transformers leaves the choice between equals to an unstable sort.)
    """
    probs_K = scores_K.softmax(dim=0)
    # Tokens below this floor have less than 1 - top_p together, so they go whatever their order.
    # What is left is a small part of a vocabulary, and only that is sorted.
    rest_K = probs_K >= (1.0 - top_p) / probs_K.numel()
    # Falling ids in a stable sort: of equals, the greatest id goes first.
    rest_ids = rest_K.nonzero()[:, 0].flip(0)
    rest_probs, order = probs_K[rest_ids].sort(stable=True)
    below = rest_probs.cumsum(dim=0) + probs_K[~rest_K].sum()
    goes = below <= 1.0 - top_p
    goes[-1] = False
    stays_K = torch.zeros_like(rest_K)
    stays_K[rest_ids[order[~goes]]] = True
    return stays_K


def is_above_min_p(scores_K: Tensor, min_p: float) -> Tensor:
    """Tokens with at least `min_p` of the best token's probability."""
    probs_K = scores_K.softmax(dim=0)
    return probs_K >= min_p * probs_K.max()
