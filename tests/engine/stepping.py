"""The same sequences driven by the host, and by steps on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from segue.api.types import Sampling, SlotId
from segue.engine.device.buckets import StepShape
from segue.engine.device.buffers import RowStart, ScratchUnits, StepTables
from segue.engine.device.result import unpack
from segue.engine.device.sampling import DeviceSampling
from segue.engine.runner import ModelRunner
from segue.engine.speculation.acceptance import SlotRing
from segue.kernels.decode_step import Column
from tests.engine.drafting import DraftingSequence, draft, verify
from tests.runners import new_runner

PAGE_TOKENS = 16
NUM_PAGES = 64
NUM_SLOTS = 88
SCRATCH = ScratchUnits(NUM_PAGES, NUM_SLOTS)
MAX_ROWS = 8
MAX_SLOTS = 9
MAX_CONTEXT = 256


def runner_of(folder: Path) -> ModelRunner:
    """With a scratch page and slot."""
    return new_runner(
        folder,
        page_tokens=PAGE_TOKENS,
        num_pages=NUM_PAGES,
        num_slots=NUM_SLOTS,
        with_scratch=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceCase:
    """One sequence of a test."""

    prompt: Sequence[int]
    max_tokens: int
    starts_at: int = 0
    """The number of its first step."""
    num_slots: int = MAX_SLOTS
    params: Sampling = field(default_factory=Sampling)
    end_ids: Sequence[int] = ()

    def pages(self, row: int) -> list[int]:
        """Scattered, and enough for the longest answer."""
        first = row * (NUM_PAGES // MAX_ROWS)
        num_pages = -(-(len(self.prompt) + self.max_tokens) // PAGE_TOKENS)
        return [first + (3 * i + row) % 8 for i in range(num_pages)]

    def slots(self, row: int) -> list[int]:
        first = row * (NUM_SLOTS // MAX_ROWS)
        return [first + (5 * i + row) % 11 for i in range(self.num_slots)]

    def start(self, runner: ModelRunner, row: int) -> DraftingSequence:
        """Computes the prompt and samples the first token."""
        sequence = DraftingSequence(
            runner, self.pages(row), self.slots(row), self.prompt, self.params
        )
        sequence.prefill()
        if len(self.prompt) % PAGE_TOKENS == 0:
            sequence.ring = sequence.ring.with_checkpoint(sequence.ring.state, len(self.prompt))
        return sequence


@dataclass(slots=True)
class SequenceOutcome:
    """The tokens and rings of the sequences."""

    tokens: list[list[int]]
    rings: list[list[SlotRing]]
    """After each step that a sequence took part in."""

    @classmethod
    def none(cls, num: int) -> SequenceOutcome:
        return cls([[] for _ in range(num)], [[] for _ in range(num)])


def by_hand(runner: ModelRunner, asked: Sequence[SequenceCase], num_drafts: int) -> SequenceOutcome:
    """Driven by the host: each sequence drafts up to its limit."""
    went = SequenceOutcome.none(len(asked))
    running: dict[int, DraftingSequence] = {}
    for step in range(200):
        for row, one in enumerate(asked):
            if one.starts_at == step:
                running[row] = one.start(runner, row)
        left = {
            row: asked[row].max_tokens - s.num_answered
            for row, s in running.items()
            if s.tokens[-1] not in asked[row].end_ids
        }
        nums = {
            row: min(num_drafts, running[row].ring.max_chunk_tokens - 1, num - 1)
            for row, num in left.items()
            if num > 0
        }
        rows = sorted(nums, key=lambda row: -nums[row])
        batch = [running[row] for row in rows]
        if not batch and step > max(one.starts_at for one in asked):
            break
        if not batch:
            continue
        before = [(len(s.tokens), s.ring) for s in batch]
        drafts = draft(runner, batch, [nums[row] for row in rows])
        verify(runner, batch, drafts)
        for row, sequence, (num_before, ring) in zip(rows, batch, before, strict=True):
            _end(sequence, asked[row], num_before, ring)
            went.rings[row].append(sequence.ring)
    for row, sequence in running.items():
        went.tokens[row] = sequence.tokens[len(asked[row].prompt) :]
    return went


def _end(sequence: DraftingSequence, asked: SequenceCase, num_before: int, ring: SlotRing) -> None:
    """Removes the tokens after one that ends the answer."""
    new = sequence.tokens[num_before:]
    ends = [i for i, token_id in enumerate(new) if token_id in asked.end_ids]
    if not ends:
        return
    del sequence.tokens[num_before + ends[0] + 1 :]
    sequence.ring = ring.after(ring.outputs(len(new)), ends[0] + 1, PAGE_TOKENS)


class Steps:
    """Driven by steps on a device's tables."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.tables = StepTables(
            num_rows=MAX_ROWS,
            max_slots=MAX_SLOTS,
            max_context=MAX_CONTEXT,
            page_tokens=PAGE_TOKENS,
            scratch=SCRATCH,
            device="cpu",
        )
        self.sampling = DeviceSampling(
            num_rows=MAX_ROWS, vocab_size=runner.config.vocab_size, device="cpu"
        )
        self.step = runner.device_step(self.tables, self.sampling)

    def run(
        self,
        asked: Sequence[SequenceCase],
        num_drafts: int,
        *,
        num_padding: int = 0,
        num_pages: int = 0,
    ) -> SequenceOutcome:
        """`num_padding`: padding rows in each step. `num_pages`: minimum width of the page
        table."""
        went = SequenceOutcome.none(len(asked))
        started: dict[int, DraftingSequence] = {}
        for step in range(200):
            for row, one in enumerate(asked):
                if one.starts_at == step:
                    started[row] = one.start(self.runner, row)
                    self._start(row, one, started[row])
            if not started:
                continue
            # Ended rows stay in the batch: the host does not know about them.
            rows = [*started, *[self.tables.pad_row] * num_padding]
            reach = max(s.ring.num_tokens for s in started.values()) + num_drafts + 1
            shape = StepShape(len(rows), num_drafts, max(-(-reach // PAGE_TOKENS), num_pages))
            values = self.step.run(torch.tensor(rows), shape)
            stepped = unpack(values, shape, [None] * len(started))
            for (row, sequence), one in zip(started.items(), stepped, strict=True):
                new = [token.token_id for token in one.tokens]
                if new:
                    ring = sequence.ring
                    sequence.ring = ring.after(ring.outputs(len(new)), len(new), PAGE_TOKENS)
                    sequence.tokens += new
                    went.rings[row].append(sequence.ring)
            if not any(one.tokens for one in stepped) and step > max(
                one.starts_at for one in asked
            ):
                break
        for row, sequence in started.items():
            went.tokens[row] = sequence.tokens[len(asked[row].prompt) :]
        return went

    def _start(self, row: int, asked: SequenceCase, sequence: DraftingSequence) -> None:
        first = sequence.tokens[-1]
        self.sampling.start(row, asked.params, prompt_ids=asked.prompt, answer_ids=(first,))
        ended = first in asked.end_ids
        self.tables.start(
            row,
            RowStart(
                last_token=first,
                position=sequence.ring.num_tokens,
                num_left=0 if ended else asked.max_tokens - 1,
                page_ids=sequence.pages,
                slots=sequence.slots,
                state=sequence.ring.state,
                checkpoint=sequence.ring.checkpoint,
                end_ids=asked.end_ids,
            ),
        )

    def ring(self, row: int, slots: Sequence[int]) -> SlotRing:
        """The device's ring, which lacks the number of tokens in the checkpoint."""
        integers = self.tables.integers_RF[row]
        checkpoint = int(integers[Column.CHECKPOINT])
        return SlotRing(
            slots=tuple(SlotId(slot) for slot in slots),
            state=SlotId(int(integers[Column.STATE])),
            num_tokens=int(integers[Column.POSITION]),
            checkpoint=SlotId(checkpoint) if checkpoint >= 0 else None,
        )
