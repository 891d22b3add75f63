"""The bookkeeping of a decode step with three drafts. Integers must be those of the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.cases.sizes import Sizes
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import Case, Check
from segue.kernels import NO_SLOT
from segue.kernels.decode_step import (
    END_IDS,
    OpenStep,
    StepMemory,
    reference,
    triton_close,
    triton_open,
)
from segue.kernels.sampling import NO_TOKEN

_Way = tuple[Callable[..., OpenStep], Callable[..., None], Callable[..., Tensor]]
_KERNELS: _Way = (triton_open.open_step, triton_close.add_draft, triton_close.close_step)
_REFERENCE: _Way = (reference.open_step, reference.add_draft, reference.close_step)
_DRAFTS = 3
_SLOTS = _DRAFTS + 2
_CONTEXT = 1 << 18
"""Of the published models: as wide is the page table."""


def decode_step_cases(
    shape: Shape, sizes: Sizes, device: str, dtype: torch.dtype
) -> Iterator[partial[Case]]:
    for num in sizes.sampled_rows:
        for has_drafts in (False, True):
            yield partial(_opened, num, sizes.page_tokens, device, has_drafts=has_drafts)
        for counts in (False, True):
            yield partial(_whole, num, sizes.page_tokens, shape.vocab_size, device, counts=counts)


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
        check=Check(
            exact=lambda: _parts(opened(reference.open_step)),
            seen=_parts,
            limit=0.0,
        ),
        num_bytes=2 * memory.pages_RP[:num].nbytes,
    )


def _whole(num: int, page_tokens: int, vocab_size: int, device: str, *, counts: bool) -> Case:
    """Opened, three drafts, closed; and before it, memory as it was."""
    saved, rows_B = _memory(num, page_tokens, device), _rows(num, device)
    memory = replace(saved, integers_RF=saved.integers_RF.clone())
    counts_SV = torch.zeros(num, vocab_size, dtype=torch.int32, device=device) if counts else None
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
        operator=f"decode step, whole{' with counts' if counts else ''}",
        size=f"{num}",
        run=run,
        check=Check(exact=expected, seen=list, limit=0.0),
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
