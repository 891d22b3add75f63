"""Rows for the sampling operator, and what a row gives: one at a time, by the definitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.kernels import NO_SLOT
from segue.kernels.sampling import (
    IN_PROMPT,
    MAX_FEW,
    NO_TOKEN,
    Ledger,
    SamplingFeatures,
    SamplingRows,
)
from segue.kernels.sampling.noise import gumbel


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Of one row."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    position: int = 1
    prompt: tuple[int, ...] = ()
    answer: tuple[int, ...] = ()
    pending: tuple[int, ...] = ()
    allowed: tuple[int, ...] | None = None
    """The only tokens that may be sampled; None for all."""

    @property
    def has_slot(self) -> bool:
        penalties = (self.repetition, self.presence, self.frequency)
        return bool(self.bias) or penalties != (1.0, 0.0, 0.0)

    @property
    def draws_few(self) -> bool:
        return self.temperature > 0 and 0 < self.top_k <= MAX_FEW


def needs_of(each: Sequence[Wanted]) -> SamplingFeatures:
    return SamplingFeatures(
        bias=any(w.bias for w in each),
        penalties=any(w.has_slot for w in each),
        masks=any(w.allowed is not None for w in each),
        draws=any(w.temperature > 0 and not w.draws_few for w in each),
        draws_few=any(w.draws_few for w in each),
        top_k=any(w.top_k > 0 for w in each),
        top_p=any(w.top_p < 1 for w in each),
        min_p=any(w.min_p > 0 for w in each),
    )


def rows_of(each: Sequence[Wanted]) -> SamplingRows:
    """Slots are given to those with penalties or a bias, the last row's first."""

    def integers(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64)

    def numbers(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    num_pending = max((len(w.pending) for w in each), default=0)
    pending = [[*w.pending, *[NO_TOKEN] * num_pending][:num_pending] for w in each]
    return SamplingRows(
        seed_R=integers([w.seed for w in each]),
        position_R=integers([w.position for w in each]),
        top_k_R=integers([w.top_k for w in each]),
        slot_R=integers([_slot(each, i) for i in range(len(each))]),
        mask_R=integers([NO_SLOT if w.allowed is None else i for i, w in enumerate(each)]),
        temperature_R=numbers([w.temperature for w in each]),
        top_p_R=numbers([w.top_p for w in each]),
        min_p_R=numbers([w.min_p for w in each]),
        repetition_penalty_R=numbers([w.repetition for w in each]),
        presence_penalty_R=numbers([w.presence for w in each]),
        frequency_penalty_R=numbers([w.frequency for w in each]),
        pending_RP=integers(pending).reshape(len(each), num_pending),
    )


def ledger_of(each: Sequence[Wanted], vocab_size: int) -> Ledger:
    counts_SV = torch.zeros(len(each) + 1, vocab_size, dtype=torch.int32)
    bias_SV = torch.zeros(len(each) + 1, vocab_size)
    for i, wanted in enumerate(each):
        slot = _slot(each, i)
        if slot != NO_SLOT:
            counts_SV[slot, list(wanted.prompt)] = IN_PROMPT
            for token_id in wanted.answer:
                counts_SV[slot, token_id] += 1
            for token_id, bias in wanted.bias:
                bias_SV[slot, token_id] = bias
    masks = [
        _words(range(vocab_size) if w.allowed is None else w.allowed, vocab_size) for w in each
    ]
    words = torch.stack(masks) if masks else torch.empty(0, -(-vocab_size // 32)).int()
    return Ledger(counts_SV=counts_SV, bias_SV=bias_SV, masks_MW=words)


def _words(allowed: Sequence[int], vocab_size: int) -> Tensor:
    words = [0] * -(-vocab_size // 32)
    for token_id in allowed:
        words[token_id // 32] |= 1 << token_id % 32
    return torch.tensor(words, dtype=torch.int64).to(torch.int32)


def _slot(each: Sequence[Wanted], i: int) -> int:
    return len(each) - 1 - i if each[i].has_slot else NO_SLOT


def token_of(logits_V: Tensor, wanted: Wanted) -> int:
    """Penalties and filters a token at a time, in order."""
    scores_V = logits_V.clone()
    if wanted.allowed is not None:
        scores_V = torch.full_like(scores_V, -torch.inf)
        scores_V[list(wanted.allowed)] = logits_V[list(wanted.allowed)]
    for token_id, bias in wanted.bias:
        scores_V[token_id] += bias
    answer = (*wanted.answer, *wanted.pending)
    for token_id in {*wanted.prompt, *answer}:
        score, penalty = scores_V[token_id], torch.tensor(wanted.repetition)
        scores_V[token_id] = score * penalty if score < 0 else score / penalty
    for token_id in set(answer):
        scores_V[token_id] -= torch.tensor(wanted.frequency) * float(answer.count(token_id))
        scores_V[token_id] -= wanted.presence
    if not wanted.temperature:
        return int(scores_V.argmax())
    best_first = scores_V.argsort(descending=True, stable=True)
    if 0 < wanted.top_k < len(scores_V):
        best_first = best_first[scores_V[best_first] >= scores_V[best_first[wanted.top_k - 1]]]
    scores_C = (scores_V[best_first].double() - scores_V.max().double()) / wanted.temperature
    mass_C = scores_C.exp()
    below_C = mass_C.flip(0).cumsum(0).flip(0)
    stays_C = (below_C > (1.0 - wanted.top_p) * below_C[0]) | (wanted.top_p == 1.0)
    stays_C &= mass_C >= wanted.min_p
    stays_C[0] = True
    seed_C, position_C = (
        torch.full_like(best_first, value) for value in (wanted.seed, wanted.position)
    )
    noisy_C = scores_C + gumbel(seed_C, position_C, best_first)
    return int(best_first[noisy_C.masked_fill(~stays_C, -torch.inf).argmax()])
