"""The bookkeeping of a decode step: the kernels do what the reference does, and the reference what
its parts do one sequence at a time (tests/engine/test_device_step.py)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from segue.kernels import NO_SLOT
from segue.kernels.decode_step import END_IDS, OpenStep, StepMemory, reference
from segue.kernels.decode_step import triton_close as closing
from segue.kernels.decode_step import triton_open as opening
from segue.kernels.sampling import IN_PROMPT, NO_TOKEN, SamplingRows
from tests.kernels.device import DEVICE

PAGE_TOKENS, MAX_PAGES = 4, 11
VOCABULARY = 50
SCRATCH = (900, 901)
NUM_ROWS = 9
PAD_ROW = NUM_ROWS - 1


def some_row(source: random.Random, num_slots: int) -> list[int]:
    """A ring of any length and state; answers that have ended, end in this step or go on."""
    ring = source.sample(range(100), source.randrange(1, num_slots + 1))
    kept = source.choice([NO_SLOT, *ring])
    num_ends = source.randrange(4)
    return [
        source.randrange(VOCABULARY),
        source.randrange(1, PAGE_TOKENS * (MAX_PAGES - 5)),
        source.choice([0, 1, 2, 5, 1000]),
        source.choice(ring),
        kept,
        *ring,
        *[NO_SLOT] * (num_slots - len(ring)),
        *[source.randrange(4) for _ in range(num_ends)],
        *[NO_TOKEN] * (END_IDS - num_ends),
    ]


def some_memory(source: random.Random, num_slots: int) -> StepMemory:
    padding = [0, 1, 0, SCRATCH[1], NO_SLOT, *[NO_SLOT] * num_slots, *[NO_TOKEN] * END_IDS]
    rows = [*(some_row(source, num_slots) for _ in range(PAD_ROW)), padding]
    noise = torch.Generator().manual_seed(source.randrange(2**31))
    sampling = [
        [
            source.randrange(2**63),
            source.choice([0, 20, 2**31]),
            source.choice([NO_SLOT, row]),
            source.choice([NO_SLOT, 8 * row]),
            0,
        ]
        for row in range(NUM_ROWS)
    ]
    for one in sampling:
        one[4] = int(one[3] != NO_SLOT and source.random() < 0.5)
    sampling[PAD_ROW][2:] = [NO_SLOT, NO_SLOT, 0]
    return StepMemory(
        integers_RF=torch.tensor(rows),
        pages_RP=torch.randint(800, (NUM_ROWS, MAX_PAGES), generator=noise),
        drafts_RK=torch.randint(4, (NUM_ROWS, 7), generator=noise),
        sampling_R5=torch.tensor(sampling),
        numbers_R6=torch.rand(NUM_ROWS, 6, generator=noise, dtype=torch.float64),
        page_tokens=PAGE_TOKENS,
        scratch_page=SCRATCH[0],
        scratch_slot=SCRATCH[1],
    )


def moved(memory: StepMemory) -> StepMemory:
    """A copy, in the memory that kernels use."""
    tensors = {
        field.name: getattr(memory, field.name).clone().to(DEVICE)
        for field in fields(StepMemory)
        if isinstance(getattr(memory, field.name), Tensor)
    }
    return replace(memory, **tensors)


def parts(step: OpenStep) -> Iterator[tuple[str, Tensor]]:
    for field in fields(OpenStep):
        value = getattr(step, field.name)
        if isinstance(value, SamplingRows):
            yield from ((each.name, getattr(value, each.name)) for each in fields(SamplingRows))
        else:
            yield field.name, value


def assert_same(step: OpenStep, expected: OpenStep) -> None:
    for (name, tensor), (_, other) in zip(parts(step), parts(expected), strict=True):
        assert tensor.dtype == other.dtype, name
        assert tensor.is_contiguous(), name
        assert tensor.cpu().equal(other), name


def assert_same_memory(memory: StepMemory, expected: StepMemory) -> None:
    for name in ("integers_RF", "pages_RP", "drafts_RK", "sampling_R5", "numbers_R6"):
        assert getattr(memory, name).cpu().equal(getattr(expected, name)), name


class Steps:
    """The same step by the reference and by kernels."""

    def __init__(self, memory: StepMemory, row_ids: list[int]) -> None:
        self.expected, self.memory = memory, moved(memory)
        self.row_ids_B = torch.tensor(row_ids)

    def run(
        self,
        source: random.Random,
        num_rounds: int,
        *,
        has_drafts: bool = False,
        counts_SV: Tensor | None = None,
    ) -> None:
        num_pages = source.randrange(MAX_PAGES - 1, MAX_PAGES + 1)
        wanted = {"num_rounds": num_rounds, "num_pages": num_pages, "has_drafts": has_drafts}
        rows_B = self.row_ids_B.to(DEVICE)
        expected = reference.open_step(self.row_ids_B, self.expected, **wanted)
        step = opening.open_step(rows_B, self.memory, **wanted)
        assert_same(step, expected)

        if not has_drafts:
            for depth in range(num_rounds - 1):
                drawn_B = torch.tensor([source.randrange(4) for _ in self.row_ids_B])
                reference.add_draft(drawn_B, self.row_ids_B, expected, self.expected, depth)
                closing.add_draft(drawn_B.to(DEVICE), rows_B, step, self.memory, depth)
        assert_same(step, expected)
        assert_same_memory(self.memory, self.expected)

        # Many of them equal the drafts, and some are end tokens.
        targets_T = torch.tensor([source.randrange(4) for _ in expected.token_ids_T])
        drafts_T = expected.token_ids_T[len(self.row_ids_B) :]
        is_right_T = torch.tensor([source.random() < 0.7 for _ in drafts_T]).bool()
        is_right_T &= drafts_T < VOCABULARY
        targets_T[: len(drafts_T)] = drafts_T.where(is_right_T, targets_T[: len(drafts_T)])
        counts = None if counts_SV is None else counts_SV.clone().to(DEVICE)
        result = closing.close_step(targets_T.to(DEVICE), rows_B, step, self.memory, counts)
        expected_result = reference.close_step(
            targets_T, self.row_ids_B, expected, self.expected, counts_SV
        )
        assert result.cpu().equal(expected_result)
        assert_same_memory(self.memory, self.expected)
        if counts is not None:
            assert counts.cpu().equal(counts_SV)


@pytest.mark.parametrize(
    "num_rounds", [1, *(pytest.param(num, marks=pytest.mark.slow) for num in (2, 4)), 8]
)
def test_kernels_do_what_the_reference_does(num_rounds: int) -> None:
    source = random.Random(num_rounds)
    for number in range(6):
        num_slots = source.randrange(num_rounds, 10)
        rows = source.sample(range(PAD_ROW), source.randrange(1, PAD_ROW + 1))
        steps = Steps(some_memory(source, num_slots), [*rows, *[PAD_ROW] * (number % 3)])
        counts_SV = torch.randint(3, (NUM_ROWS, VOCABULARY), dtype=torch.int32)
        counts_SV[:, ::3] |= IN_PROMPT
        # What the first step leaves in memory the second one reads.
        steps.run(source, num_rounds, counts_SV=counts_SV)
        steps.run(source, num_rounds, has_drafts=number % 2 == 0)


def test_a_page_table_wider_than_a_program_copies() -> None:
    source = random.Random(5)
    memory = some_memory(source, 3)
    wide = torch.randint(800, (NUM_ROWS, 2 * opening.PAGES_AT_ONCE + 3))
    memory = moved(replace(memory, pages_RP=wide))
    rows_B = torch.tensor([3, 1]).to(DEVICE)

    step = opening.open_step(rows_B, memory, num_rounds=1, num_pages=wide.shape[1] - 1)

    assert step.page_table_BP.cpu().equal(wide[[3, 1], :-1])


def test_what_kernels_are_given_starts_at_multiples_of_16_bytes() -> None:
    memory = moved(some_memory(random.Random(6), 3))

    step = opening.open_step(torch.tensor([2]).to(DEVICE), memory, num_rounds=3, num_pages=2)

    assert [name for name, tensor in parts(step) if tensor.data_ptr() % 16] in ([], ["state_B"])


def test_a_step_beyond_the_ring_is_refused() -> None:
    memory = moved(some_memory(random.Random(7), 3))

    with pytest.raises(ValueError, match="1 to 3 draft rounds with rings of 3 slots, got 4"):
        opening.open_step(torch.tensor([2]).to(DEVICE), memory, num_rounds=4, num_pages=2)
