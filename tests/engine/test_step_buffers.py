"""What a step knows of sequences is what it was told, and rows are nobody else's business."""

from __future__ import annotations

import pytest

from segue.engine.device.buffers import MAX_END_IDS, RowStart, ScratchUnits, StepTables
from segue.kernels import NO_SLOT
from segue.kernels.decode_step import Column
from segue.kernels.sampling import NO_TOKEN


def tables(max_context: int = 64) -> StepTables:
    return StepTables(
        num_rows=3,
        max_slots=4,
        max_context=max_context,
        page_tokens=16,
        scratch=ScratchUnits(90, 91),
        device="cpu",
    )


def start(num_pages: int = 3) -> RowStart:
    return RowStart(
        last_token=17,
        position=33,
        num_left=5,
        page_ids=range(10, 10 + num_pages),
        slots=(7, 3),
        state=3,
        checkpoint=7,
        end_ids=range(20),
    )


def test_a_row_is_what_it_was_told() -> None:
    told = tables()

    told.start(1, start())

    row = told.integers_RF[1].tolist()
    assert row[Column.LAST_TOKEN] == 17
    assert row[Column.POSITION] == 33
    assert row[Column.NUM_LEFT] == 5
    assert (row[Column.STATE], row[Column.CHECKPOINT]) == (3, 7)
    assert row[Column.SLOTS :] == [7, 3, NO_SLOT, NO_SLOT, *range(MAX_END_IDS)]
    # Context and the longest decode chunk, in pages of 16; a row repeats its first.
    assert told.pages_RP[1].tolist() == [10, 11, 12, 10, 10]


def test_a_shorter_sequence_leaves_nothing_of_a_longer_one_before_it() -> None:
    told = tables()
    told.start(2, start(num_pages=5))

    told.start(2, start(num_pages=1))

    assert told.pages_RP[2].tolist() == [10] * 5


def test_padding_may_not_run_and_has_scratch_units_alone() -> None:
    told = tables()
    row = told.integers_RF[told.pad_row].tolist()
    assert row[Column.NUM_LEFT] == 0
    assert row[Column.STATE] == 91
    assert row[Column.SLOTS :] == [NO_SLOT] * 4 + [NO_TOKEN] * MAX_END_IDS
    assert told.pages_RP[told.pad_row].tolist() == [90] * 5


@pytest.mark.parametrize(
    ("row", "begins", "message"),
    [
        (3, start(), "row 3 is not one of 3"),
        (0, start(num_pages=6), "more pages than the longest context has"),
    ],
)
def test_what_cannot_be_is_refused(row: int, begins: RowStart, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        tables().start(row, begins)
