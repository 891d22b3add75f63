"""The distribution that answers should follow, and a test of counted answers against it.

Computed in numpy from logits after every prefix of an answer and the definitions of the options.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from segue.api.types import Sampling

MIN_EXPECTED = 5.0
"""Of a cell: below, the statistic does not follow the chi-square distribution."""

Tokens = tuple[int, ...]
Law = dict[Tokens, float]
Floats = NDArray[np.float64]


def next_probs(logits_V: Floats, prompt: Sequence[int], answer: Tokens, params: Sampling) -> Floats:
    """[V], by the definitions: penalties, temperature, top-k, top-p, min-p, in this order."""
    scores_V = logits_V.copy()
    for token_id in {*prompt, *answer}:
        score = scores_V[token_id]
        penalty = params.repetition_penalty
        scores_V[token_id] = score * penalty if score < 0 else score / penalty
    for token_id, count in Counter(answer).items():
        scores_V[token_id] -= params.presence_penalty + count * params.frequency_penalty
    scores_V /= params.temperature
    best_first = np.argsort(-scores_V)[: params.top_k or None]
    probs = softmax(scores_V[best_first])
    if params.top_p < 1.0:
        num_kept = int(np.argmax(probs.cumsum() >= params.top_p)) + 1
        probs = probs[:num_kept] / probs[:num_kept].sum()
    probs = np.where(probs >= params.min_p * probs[0], probs, 0.0)
    probs_V = np.zeros(len(logits_V))
    probs_V[best_first[: len(probs)]] = probs / probs.sum()
    return probs_V


def softmax(scores: Floats) -> Floats:
    weights: Floats = np.exp(scores - scores.max())
    return weights / weights.sum()


def law_of(logits: Mapping[Tokens, Floats], prompt: Sequence[int], params: Sampling) -> Law:
    """The probability of every possible answer, one token longer than the longest prefix."""
    law: Law = {(): 1.0}
    for _ in range(max(map(len, logits)) + 1):
        law = {
            (*answer, token_id): prob * next_prob
            for answer, prob in law.items()
            for token_id, next_prob in enumerate(next_probs(logits[answer], prompt, answer, params))
            if next_prob > 0.0
        }
    return law


def cells_of(law: Law, num: int) -> list[list[Tokens]]:
    """Answers that are expected often enough alone, then the rare ones in groups that are. Rare
    answers that repeat a token stay together, since that is where penalties show."""
    rare = [answer for answer, prob in law.items() if prob * num < MIN_EXPECTED]
    cells = [[answer] for answer, prob in law.items() if prob * num >= MIN_EXPECTED]
    group: list[Tokens] = []
    for answer in sorted(rare, key=lambda answer: (len(set(answer)), answer)):
        group.append(answer)
        if sum(law[each] for each in group) * num >= MIN_EXPECTED:
            cells.append(group)
            group = []
    cells[-1] = [*cells[-1], *group]
    return cells


def chi_square(counts: Counter[Tokens], law: Law) -> tuple[float, int]:
    """The statistic and its degrees of freedom."""
    num = counts.total()
    cells = cells_of(law, num)
    expected = [num * sum(law[answer] for answer in cell) for cell in cells]
    observed = [sum(counts[answer] for answer in cell) for cell in cells]
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    return float(statistic), len(cells) - 1


def p_value(statistic: float, degrees: int) -> float:
    """How often a statistic is this large by chance."""
    half = torch.tensor([degrees, statistic], dtype=torch.float64) / 2
    return float(torch.special.gammaincc(half[0], half[1]))
