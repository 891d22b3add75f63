"""What a captured step knows of the running sequences: tensors that stay where they are.

    host                                     device
    RowStart ── pinned ── one copy ──▶  tables, a row each  ◀── the step reads and moves them on
    row ids  ── pinned ── one copy ──▶  row_ids_B ── gather ──▶ the step's sequences

A sequence has one row from its start to its end, so a step is told nothing but which rows take part
in it. One row more belongs to nobody (`pad_row`): it fills a batch up to the size that was
captured. It may not run, and has the scratch page and slot for what a step writes all the same.

R rows, F integers of a row, P pages of the longest sequence, S slots of a ring, E tokens that end
an answer, B sequences of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from segue.engine.batch import MAX_RUN_TOKENS
from segue.kernels import NO_SLOT
from segue.kernels.sampling import NO_TOKEN

MAX_END_IDS = 8
"""Tokens that end an answer as the step sees it. Further ones are found by the host, a step later:
it sees stop strings only then as well."""


class ScratchUnits(NamedTuple):
    """Take what is computed for nobody. No sequence ever has them."""

    page: int
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStart:
    """A sequence as it stands when its first step is launched."""

    last_token: int
    """Certain, and not in the cache."""
    position: int
    """Of that token; at least 1. The state contains the tokens before it."""
    num_left: int
    """Tokens that the answer may still get."""
    page_ids: Sequence[int]
    """Own pages follow shared ones, to the end of the longest answer. They do not change."""
    slots: Sequence[int]
    state: int
    checkpoint: int | None
    end_ids: Sequence[int]


class SequenceRows(NamedTuple):
    """Of some rows, what a step reads at its start."""

    last_token_B: Tensor
    position_B: Tensor
    num_left_B: Tensor
    state_B: Tensor
    checkpoint_B: Tensor
    slots_BS: Tensor
    end_ids_BE: Tensor


_NUM_SINGLE = len(SequenceRows._fields) - 2


class StepTables:
    """One matrix of integers, so that a step gathers its rows at once and writes them back at once;
    and the page tables."""

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
        """`max_slots` of one ring."""
        self.num_rows = num_rows
        self.pad_row = num_rows
        self.page_tokens = page_tokens
        self.scratch = scratch
        self.device = torch.device(device)
        self.max_pages = -(-(max_context + MAX_RUN_TOKENS) // page_tokens)
        self._widths = [*[1] * _NUM_SINGLE, max_slots, MAX_END_IDS]
        self._ints_RF = torch.empty(
            num_rows + 1, sum(self._widths), dtype=torch.int64, device=device
        )
        self._pages_RP = torch.full((num_rows + 1, self.max_pages), scratch.page, device=device)
        self._ints_RF[:] = torch.tensor(
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
        """From here on the row is this sequence's. In stream order; waits for nothing."""
        assert 0 <= row < self.num_rows, f"row {row} is not one of {self.num_rows}"
        assert start.position >= 1, "a sequence starts with a state"
        assert len(start.page_ids) <= self.max_pages, "more pages than the longest context has"
        record = self._record(start)
        sent = to_device([*record, *start.page_ids], self.device)
        self._ints_RF[row].copy_(sent[: len(record)])
        # Behind its pages a row repeats the first of them. Nothing is written there; what a query
        # reads there is masked, and is a number because it is one of the sequence's own.
        self._pages_RP[row].fill_(start.page_ids[0])
        self._pages_RP[row, : len(start.page_ids)].copy_(sent[len(record) :])

    def gather(self, row_ids_B: Tensor) -> SequenceRows:
        # Turned, so that each of them is contiguous, as kernels expect it.
        ints_FB = self._ints_RF.index_select(0, row_ids_B).T.contiguous()
        parts = torch.split(ints_FB, self._widths)
        return SequenceRows(
            *(part[0] for part in parts[:_NUM_SINGLE]), *(p.T for p in parts[_NUM_SINGLE:])
        )

    def page_table(self, row_ids_B: Tensor, num_pages: int) -> Tensor:
        """[B, P], the first `num_pages` of each row."""
        return self._pages_RP[:, :num_pages].index_select(0, row_ids_B)

    def write(self, row_ids_B: Tensor, rows: SequenceRows) -> None:
        """Back to where they were. Rows that are there twice must be equal."""
        singles = [part.unsqueeze(1) for part in rows[:_NUM_SINGLE]]
        ints_BF = torch.cat([*singles, *rows[_NUM_SINGLE:]], dim=1)
        self._ints_RF.index_copy_(0, row_ids_B, ints_BF)

    def _record(self, start: RowStart) -> list[int]:
        singles = [
            start.last_token,
            start.position,
            start.num_left,
            start.state,
            NO_SLOT if start.checkpoint is None else start.checkpoint,
        ]
        max_slots = self._widths[-2]
        assert len(start.slots) <= max_slots, f"a ring has at most {max_slots} slots"
        slots = [*start.slots, *[NO_SLOT] * (max_slots - len(start.slots))]
        end_ids = list(start.end_ids)[:MAX_END_IDS]
        return [*singles, *slots, *end_ids, *[NO_TOKEN] * (MAX_END_IDS - len(end_ids))]


def to_device(
    values: Sequence[float],
    device: torch.device,
    *,
    out: Tensor | None = None,
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    """Into `out` if it is given, in one copy that the host does not wait for.

    torch gives pinned memory out again only when the copies from it are done, so a block that is
    in use by a step in flight cannot be overwritten, and steps soon share the same few blocks.
    """
    host = torch.tensor(values, dtype=dtype)
    if device.type != "cpu":
        host = host.pin_memory()
    return host.to(device, non_blocking=True) if out is None else out.copy_(host, non_blocking=True)
