"""Sampling, and the bookkeeping of a decode step with three drafts.

Tokens and other integers must be those of the reference, which samples in float64 too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.cases.setup import Make, Setup
from benchmarks.gpu.operators import Case
from segue.kernels import NO_SLOT
from segue.kernels.decode_step import (
    END_IDS,
    OpenStep,
    StepMemory,
    reference,
    triton_close,
    triton_open,
)
from segue.kernels.sampling import (
    EVERYTHING,
    IN_PROMPT,
    NO_TOKEN,
    Ledger,
    SamplingFeatures,
    SamplingRows,
)
from segue.kernels.sampling import reference as sampling_reference
from segue.kernels.sampling import triton as triton_sampling

_Way = tuple[Callable[..., OpenStep], Callable[..., None], Callable[..., Tensor]]
_KERNELS: _Way = (triton_open.open_step, triton_close.add_draft, triton_close.close_step)
_REFERENCE: _Way = (reference.open_step, reference.add_draft, reference.close_step)
_DRAFTS = 3
_SLOTS = _DRAFTS + 2
_CONTEXT = 1 << 18
"""The published models', which is the width of the page table."""


_TOP_K_AND_P = SamplingFeatures(draws=True, top_k=True, top_p=True)
FEATURES = (
    ("greedy", SamplingFeatures()),
    ("top-k, top-p", _TOP_K_AND_P),
    ("top-k, top-p, of few", replace(_TOP_K_AND_P, draws=False, draws_few=True)),
    ("everything", EVERYTHING),
    ("everything, of few", replace(EVERYTHING, draws=False)),
)
"""Rows of both kinds are the same: a top-k of 20, from all tokens or from the best candidates."""


def decode_step_cases(setup: Setup) -> Iterator[Make]:
    where = setup.sizes.page_tokens, setup.device
    for num in setup.sizes.sampled_rows:
        for has_drafts in (False, True):
            yield partial(_opened, num, *where, has_drafts=has_drafts)
        for counts in (False, True):
            yield partial(_whole, num, *where, setup.shape.vocab_size if counts else 0)


def sampling_cases(setup: Setup) -> Iterator[Make]:
    for num_rows in setup.sizes.sampled_rows:
        for name, features in FEATURES:
            yield partial(_sampling, setup, num_rows, name, features)


def _opened(num: int, page_tokens: int, device: str, *, has_drafts: bool) -> Case:
    memory, rows_B = _memory(num, page_tokens, device), _rows(num, device)

    def opened(open_step: Callable[..., OpenStep]) -> OpenStep:
        num_pages = memory.pages_RP.shape[1]
        wanted = {"num_rounds": _DRAFTS + 1, "num_pages": num_pages}
        return open_step(rows_B, memory, has_drafts=has_drafts, **wanted)

    return Case(
        operator=f"decode step, opened{' with drafts' if has_drafts else ''}",
        size=f"{num}",
        run=partial(opened, triton_open.open_step),
        exact=lambda: _parts(opened(reference.open_step)),
        seen=_parts,
        limit=0.0,
        num_bytes=2 * memory.pages_RP[:num].nbytes,
    )


def _whole(num: int, page_tokens: int, device: str, num_counts: int) -> Case:
    """Opened, three drafts, closed; and before it, memory is restored. `num_counts`: the tokens
    that are counted for penalties; 0 for none."""
    saved, rows_B = _memory(num, page_tokens, device), _rows(num, device)
    memory = replace(saved, integers_RF=saved.integers_RF.clone())
    counts_SV = None
    if num_counts:
        counts_SV = torch.zeros(num, num_counts, dtype=torch.int32, device=device)
    drawn_B = torch.arange(num, device=device)
    # Two of three drafts are right.
    targets_T = drawn_B.repeat(_DRAFTS + 1)
    targets_T[2 * num :] += 1

    def run(way: _Way = _KERNELS) -> Sequence[Tensor]:
        memory.integers_RF.copy_(saved.integers_RF)
        if counts_SV is not None:
            counts_SV.zero_()
        open_step, add_draft, close_step = way
        num_pages = memory.pages_RP.shape[1]
        step = open_step(rows_B, memory, num_rounds=_DRAFTS + 1, num_pages=num_pages)
        for depth in range(_DRAFTS):
            add_draft(drawn_B, rows_B, step, memory, depth)
        result = close_step(targets_T, rows_B, step, memory, counts_SV)
        written = (result, memory.integers_RF, memory.drafts_RK)
        return written if counts_SV is None else (*written, counts_SV)

    def expected() -> Sequence[Tensor]:
        return [tensor.clone() for tensor in run(_REFERENCE)]

    return Case(
        operator=f"decode step, whole{' with counts' if num_counts else ''}",
        size=f"{num}",
        run=run,
        exact=expected,
        seen=list,
        limit=0.0,
        num_bytes=2 * memory.pages_RP[:num].nbytes,
    )


def _parts(step: OpenStep) -> Sequence[Tensor]:
    own = [getattr(step, f.name) for f in fields(step) if f.name != "sampling"]
    return [*own, *(getattr(step.sampling, f.name) for f in fields(step.sampling))]


def _rows(num: int, device: str) -> Tensor:
    """The last first."""
    return torch.arange(num - 1, -1, -1, device=device)


def _memory(num: int, page_tokens: int, device: str) -> StepMemory:
    slots_RS = torch.arange(num * _SLOTS).view(num, _SLOTS)
    positions_R = 1 + torch.arange(num) * 1000 % (_CONTEXT - 100)
    num_left_R, no_slot_R = torch.full((num,), 100), torch.full((num,), NO_SLOT)
    singles = (torch.arange(num), positions_R, num_left_R, slots_RS[:, 0], slots_RS[:, 2])
    ends_RE = torch.full((num, END_IDS), NO_TOKEN)
    whole = torch.arange(num)
    sampling = (whole, torch.full((num,), 20), whole, no_slot_R, torch.zeros_like(whole))
    pages_RP = torch.arange(num * (_CONTEXT // page_tokens)).view(num, -1)
    return StepMemory(
        integers_RF=torch.cat([torch.stack(singles, 1), slots_RS, ends_RE], 1).to(device),
        pages_RP=pages_RP.to(device),
        drafts_RK=torch.zeros(num, 7, dtype=torch.int64, device=device),
        sampling_R5=torch.stack(sampling, 1).to(device),
        numbers_R6=torch.ones(num, 6, dtype=torch.float64, device=device),
        page_tokens=page_tokens,
        scratch_page=num,
        scratch_slot=num,
    )


def _sampling(setup: Setup, num_rows: int, name: str, features: SamplingFeatures) -> Case:
    vocab_size, device = setup.shape.vocab_size, setup.device
    logits_RV = setup.randn_float32(num_rows, vocab_size) * 4
    ledger = _ledger(num_rows, vocab_size, device) if features.masks else None
    rows = _sampling_rows(num_rows, features, device)
    return Case(
        operator=f"sampling, {name}",
        size=f"{num_rows} x {vocab_size}",
        run=partial(triton_sampling.sample, logits_RV, rows, features, ledger),
        exact=lambda: [sampling_reference.sample(logits_RV, rows, features, ledger)],
        limit=0.0,
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


def _sampling_rows(num_rows: int, features: SamplingFeatures, device: str) -> SamplingRows:
    def fill(value: float) -> Tensor:
        return torch.full((num_rows,), value, dtype=torch.float64, device=device)

    whole = torch.arange(num_rows, device=device)
    no_slot = torch.full_like(whole, NO_SLOT)
    return SamplingRows(
        seed_R=whole,
        position_R=whole + 1,
        top_k_R=torch.full_like(whole, 20),
        slot_R=whole if features.penalties else no_slot,
        mask_R=whole if features.masks else no_slot,
        temperature_R=fill(0.7 if features.draws_any else 0.0),
        top_p_R=fill(0.8),
        min_p_R=fill(0.01 if features.min_p else 0.0),
        repetition_penalty_R=fill(1.1 if features.penalties else 1.0),
        presence_penalty_R=fill(0.2 if features.penalties else 0.0),
        frequency_penalty_R=fill(0.1 if features.penalties else 0.0),
        pending_RP=torch.full((num_rows, 1), NO_TOKEN, device=device),
    )
