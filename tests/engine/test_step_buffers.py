"""A step's tables hold the values of `start`, and rows are independent of each other."""

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


def test_a_row_holds_the_values_it_was_started_with() -> None:
    filled = tables()

    filled.start(1, start())

    row = filled.integers_RF[1].tolist()
    assert row[Column.LAST_TOKEN] == 17
    assert row[Column.POSITION] == 33
    assert row[Column.NUM_LEFT] == 5
    assert (row[Column.STATE], row[Column.CHECKPOINT]) == (3, 7)
    assert row[Column.SLOTS :] == [7, 3, NO_SLOT, NO_SLOT, *range(MAX_END_IDS)]
    # Context and the longest decode chunk, in pages of 16; a row repeats its first.
    assert filled.pages_RP[1].tolist() == [10, 11, 12, 10, 10]


def test_a_shorter_sequence_overwrites_everything_of_a_longer_one() -> None:
    filled = tables()
    filled.start(2, start(num_pages=5))

    filled.start(2, start(num_pages=1))

    assert filled.pages_RP[2].tolist() == [10] * 5


def test_padding_may_not_run_and_has_only_scratch_units() -> None:
    filled = tables()
    row = filled.integers_RF[filled.pad_row].tolist()
    assert row[Column.NUM_LEFT] == 0
    assert row[Column.STATE] == 91
    assert row[Column.SLOTS :] == [NO_SLOT] * 4 + [NO_TOKEN] * MAX_END_IDS
    assert filled.pages_RP[filled.pad_row].tolist() == [90] * 5


@pytest.mark.parametrize(
    ("row", "start", "message"),
    [
        (3, start(), "row 3 is not one of 3"),
        (0, start(num_pages=6), "more pages than the longest context has"),
    ],
)
def test_invalid_rows_are_refused(row: int, start: RowStart, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        tables().start(row, start)
