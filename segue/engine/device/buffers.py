"""The state of running sequences for captured steps: tensors at fixed addresses.

    host                                     device
    RowStart ── pinned ── one copy ──▶  tables, a row each  ◀── the step reads and updates them
    row ids  ── pinned ── one copy ──▶  row_ids_B ─────────▶ which rows the step takes

A sequence has the same row in all steps, so a step only needs row ids. One extra row, `pad_row`,
belongs to no sequence and pads a batch to the captured size. It never runs; what a step still
writes for it goes into the scratch page and slot.

R rows, F integers of a row, P pages of the longest sequence, S slots of a ring, E tokens that end
an answer, B sequences of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from segue.engine.batch import MAX_VERIFY_TOKENS
from segue.engine.device.stream import to_device
from segue.kernels import NO_SLOT
from segue.kernels.decode_step import END_IDS, Column, StepMemory
from segue.kernels.sampling import NO_TOKEN

MAX_END_IDS = END_IDS
"""End tokens that the step itself checks. The host checks further ones, and stop strings, a step
later."""


class ScratchUnits(NamedTuple):
    """A page and a slot that no sequence owns. Padding is written there."""

    page: int
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStart:
    """A sequence when its first step is launched."""

    last_token: int
    """Confirmed, but not yet in the cache."""
    position: int
    """Position of that token; at least 1. The state contains the tokens before it."""
    num_left: int
    """Tokens left until the answer's limit."""
    page_ids: Sequence[int]
    """Shared pages, then the sequence's own, for the longest possible answer. They never
    change."""
    slots: Sequence[int]
    state: int
    checkpoint: int | None
    end_ids: Sequence[int]


class StepTables:
    """The page tables, and one matrix for all other integers (see `StepMemory`)."""

    def __init__(
        self,
        *,
        num_rows: int,
        max_slots: int,
        max_context: int,
        page_tokens: int,
        scratch: ScratchUnits,
        device: str,
    ) -> None:
        """`max_slots`: slots of the largest ring."""
        self.num_rows = num_rows
        self.pad_row = num_rows
        self.page_tokens = page_tokens
        self.scratch = scratch
        self.device = torch.device(device)
        self.max_pages = -(-(max_context + MAX_VERIFY_TOKENS) // page_tokens)
        self._max_slots = max_slots
        num_integers = Column.SLOTS + max_slots + MAX_END_IDS
        self.integers_RF = torch.empty(num_rows + 1, num_integers, dtype=torch.int64, device=device)
        self._drafts_RK = torch.zeros(
            num_rows + 1, MAX_VERIFY_TOKENS - 1, dtype=torch.int64, device=device
        )
        self.pages_RP = torch.full((num_rows + 1, self.max_pages), scratch.page, device=device)
        self.integers_RF[:] = torch.tensor(
            self._record(
                RowStart(
                    last_token=0,
                    position=1,
                    num_left=0,
                    page_ids=(),
                    slots=(),
                    state=scratch.slot,
                    checkpoint=None,
                    end_ids=(),
                )
            )
        )

    def start(self, row: int, start: RowStart) -> None:
        """Assigns the row to this sequence. In stream order, without waiting."""
        assert 0 <= row < self.num_rows, f"row {row} is not one of {self.num_rows}"
        assert start.position >= 1, "a sequence starts with a state"
        assert len(start.page_ids) <= self.max_pages, "more pages than the longest context has"
        record = self._record(start)
        sent = to_device([*record, *start.page_ids], self.device)
        self.integers_RF[row].copy_(sent[: len(record)])
        # After its pages a row repeats the first one. Nothing is written there. Reads are masked,
        # and finite because the page is the sequence's own.
        self.pages_RP[row].fill_(start.page_ids[0])
        self.pages_RP[row, : len(start.page_ids)].copy_(sent[len(record) :])

    def set_left(self, row: int, num_left: int) -> None:
        """Limits the row to this many further tokens. In stream order, without waiting."""
        self.integers_RF[row, Column.NUM_LEFT] = num_left

    def memory(self, sampling_R5: Tensor, numbers_R6: Tensor) -> StepMemory:
        """These tables and a sampler's, as a step reads and updates them."""
        return StepMemory(
            integers_RF=self.integers_RF,
            pages_RP=self.pages_RP,
            drafts_RK=self._drafts_RK,
            sampling_R5=sampling_R5,
            numbers_R6=numbers_R6,
            page_tokens=self.page_tokens,
            scratch_page=self.scratch.page,
            scratch_slot=self.scratch.slot,
        )

    def _record(self, start: RowStart) -> list[int]:
        singles = [
            start.last_token,
            start.position,
            start.num_left,
            start.state,
            NO_SLOT if start.checkpoint is None else start.checkpoint,
        ]
        num_missing = self._max_slots - len(start.slots)
        assert num_missing >= 0, f"a ring has at most {self._max_slots} slots"
        slots = [*start.slots, *[NO_SLOT] * num_missing]
        end_ids = list(start.end_ids)[:MAX_END_IDS]
        return [*singles, *slots, *end_ids, *[NO_TOKEN] * (MAX_END_IDS - len(end_ids))]
