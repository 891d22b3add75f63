"""Sampling at served sizes. Tokens must be those of the reference, which is in float64 too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.cases.sizes import Sizes
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import Case, Check
from segue.kernels import NO_SLOT
from segue.kernels.sampling import (
    EVERYTHING,
    IN_PROMPT,
    NO_TOKEN,
    Ledger,
    SamplingFeatures,
    SamplingRows,
    reference,
    triton,
)

_TOP_K_AND_P = SamplingFeatures(draws=True, top_k=True, top_p=True)
NEEDS = (
    ("greedy", SamplingFeatures()),
    ("top-k, top-p", _TOP_K_AND_P),
    ("top-k, top-p, of few", replace(_TOP_K_AND_P, draws=False, draws_few=True)),
    ("everything", EVERYTHING),
    ("everything, of few", replace(EVERYTHING, draws=False)),
)
"""The rows of both kinds are the same: a top-k of 20, from all tokens or from the best alone."""


def sampling_cases(
    shape: Shape, sizes: Sizes, device: str, dtype: torch.dtype
) -> Iterator[partial[Case]]:
    for num_rows in sizes.sampled_rows:
        for name, needs in NEEDS:
            yield partial(_sampling, shape.vocab_size, num_rows, name, needs, device)


def _sampling(
    vocab_size: int, num_rows: int, name: str, needs: SamplingFeatures, device: str
) -> Case:
    logits_RV = torch.randn(num_rows, vocab_size, device=device) * 4
    ledger = _ledger(num_rows, vocab_size, device) if needs.masks else None
    rows = _rows(num_rows, needs, device)
    return Case(
        operator=f"sampling, {name}",
        size=f"{num_rows} x {vocab_size}",
        run=partial(triton.sample, logits_RV, rows, needs, ledger),
        check=Check(
            exact=lambda: [reference.sample(logits_RV, rows, needs, ledger)],
            seen=lambda out: [out],
            limit=0.0,
        ),
        num_bytes=logits_RV.nbytes,
    )


def _ledger(num_slots: int, vocab_size: int, device: str) -> Ledger:
    """Each sequence has a prompt of the first hundred tokens, a bias, and a mask of a half."""
    counts_SV = torch.zeros(num_slots, vocab_size, dtype=torch.int32, device=device)
    counts_SV[:, :100] = IN_PROMPT + 2
    bias_SV = torch.zeros(num_slots, vocab_size, device=device)
    bias_SV[:, 50:60] = 1.5
    num_words = -(-vocab_size // 32)
    masks_MW = torch.full((num_slots, num_words), 0x55555555, dtype=torch.int32, device=device)
    return Ledger(counts_SV=counts_SV, bias_SV=bias_SV, masks_MW=masks_MW)


def _rows(num_rows: int, needs: SamplingFeatures, device: str) -> SamplingRows:
    def fill(value: float) -> Tensor:
        return torch.full((num_rows,), value, dtype=torch.float64, device=device)

    whole = torch.arange(num_rows, device=device)
    no_slot = torch.full_like(whole, NO_SLOT)
    return SamplingRows(
        seed_R=whole,
        position_R=whole + 1,
        top_k_R=torch.full_like(whole, 20),
        slot_R=whole if needs.penalties else no_slot,
        mask_R=whole if needs.masks else no_slot,
        temperature_R=fill(0.7 if needs.draws_any else 0.0),
        top_p_R=fill(0.8),
        min_p_R=fill(0.01 if needs.min_p else 0.0),
        repetition_penalty_R=fill(1.1 if needs.penalties else 1.0),
        presence_penalty_R=fill(0.2 if needs.penalties else 0.0),
        frequency_penalty_R=fill(0.1 if needs.penalties else 0.0),
        pending_RP=torch.full((num_rows, 1), NO_TOKEN, device=device),
    )
