"""What a step knows of sequences is what it was told, and rows are nobody else's business."""

from __future__ import annotations

import pytest
import torch

from segue.engine.device.buffers import MAX_END_IDS, RowStart, ScratchUnits, StepTables
from segue.kernels import NO_SLOT


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

    rows = told.gather(torch.tensor([1]))
    assert rows.last_token_B.tolist() == [17]
    assert rows.position_B.tolist() == [33]
    assert rows.num_left_B.tolist() == [5]
    assert (rows.state_B.tolist(), rows.checkpoint_B.tolist()) == ([3], [7])
    assert rows.slots_BS.tolist() == [[7, 3, NO_SLOT, NO_SLOT]]
    assert rows.end_ids_BE.tolist() == [list(range(MAX_END_IDS))]
    # Context and the longest decode chunk, in pages of 16; a row repeats its first.
    assert told.page_table(torch.tensor([1]), 5).tolist() == [[10, 11, 12, 10, 10]]


def test_a_shorter_sequence_leaves_nothing_of_a_longer_one_before_it() -> None:
    told = tables()
    told.start(2, start(num_pages=5))

    told.start(2, start(num_pages=1))

    assert told.page_table(torch.tensor([2]), 5).tolist() == [[10] * 5]


def test_padding_may_not_run_and_has_scratch_units_alone() -> None:
    told = tables()
    rows = told.gather(torch.tensor([told.pad_row]))

    assert rows.num_left_B.tolist() == [0]
    assert rows.state_B.tolist() == [91]
    assert rows.slots_BS.tolist() == [[NO_SLOT] * 4]
    assert told.page_table(torch.tensor([told.pad_row]), 5).tolist() == [[90] * 5]


def test_what_is_written_back_is_found_again() -> None:
    told = tables()
    told.start(0, start())
    told.start(2, start())
    ids = torch.tensor([2, told.pad_row, told.pad_row])
    rows = told.gather(ids)

    told.write(ids, rows._replace(position_B=rows.position_B + torch.tensor([4, 0, 0])))

    assert told.gather(torch.arange(4)).position_B.tolist()[0::2] == [33, 37]
    assert told.gather(torch.arange(4)).position_B.tolist()[3] == 1


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
